import json
import tracemalloc

import pytest

from slap_jax.data.collections.entries import AudioFile, Entry
from slap_jax.data.collections.fields import CollectionError, collection_name
from slap_jax.data.collections.manifest import Manifest
from tests.data.listing import listed, reasons
from tests.data.tiny_data import write_manifest, write_tone


@pytest.fixture
def audio(tmp_path):
    """A folder with two audio files."""
    write_tone(tmp_path / "a.wav")
    write_tone(tmp_path / "sub" / "b.wav")
    return tmp_path


def line(**fields):
    return {"path": "a.wav", "captions": ["a tone"], **fields}


def reject(folder, fields):
    """Returns the reason and detail with which one line is rejected between two good ones."""
    manifest = write_manifest(folder, [line(id="good"), fields, line(id="better")])
    entries, rejections = listed(Manifest(manifest))
    assert [entry.id for entry in entries] == ["good", "better"] and len(rejections) == 1
    assert rejections[0].where == "manifest.jsonl:2"
    return rejections[0].reason, rejections[0].detail


def write_csv(folder, text, encoding="utf-8"):
    manifest = folder / "clips.csv"
    manifest.write_bytes(text.encode(encoding))
    return Manifest(manifest)


# JSON lines ----------------------------------------------------------------------------------------------------------


def test_all_fields_of_a_line(audio):
    manifest = write_manifest(
        audio,
        [
            line(
                path="sub/b.wav",
                captions=["a tone ", "a beep"],
                split="val",
                labels={"drum": "kick drum", "mood": ["calm", "dull"]},
                regions=[{"onset_s": 0, "offset_s": 0.1, "caption": "beep"}, [0.1, 0.2, "rest"]],
                source="lab",
                caption_source="people",
                licence="CC0",
                duration_s=0.25,
                kind="event",  # unknown keys are ignored
            ),
            {"path": "a.wav", "caption": "one caption", "labels": ["dog", "x=y"], "license": "MIT", "id": 7},
        ],
    )
    (first, second), rejections = listed(Manifest(manifest))
    assert not rejections
    assert (first.id, first.audio, first.split) == ("sub/b.wav", AudioFile(audio / "sub/b.wav"), "val")
    assert first.captions == ("a tone", "a beep")
    assert first.labels == ("drum=kick drum", "mood=calm", "mood=dull")
    assert first.regions == ((0.0, 0.1, "beep"), (0.1, 0.2, "rest"))
    assert (first.source, first.caption_source, first.licence, first.duration_s) == ("lab", "people", "CC0", 0.25)
    assert (second.id, second.split, second.captions) == ("7", "train", ("one caption",))
    assert (second.labels, second.licence, second.source) == (("dog", "x=y"), "MIT", collection_name(audio))
    assert second.where == "manifest.jsonl:2"


@pytest.mark.parametrize(
    ("fields", "reason", "words"),
    [
        ('{"path": "a.wav"', "bad_json", "column"),
        ("[" * 100_000, "bad_json", "usable"),
        ('{"duration_s": ' + "1" * 5_000 + "}", "bad_json", "usable"),
        ('["a.wav"]', "bad_field", "list"),
        ({"captions": ["x"]}, "bad_field", "path"),
        (line(path="nothing.wav"), "missing_file", "nothing.wav"),
        (line(path="a.wav/b.wav"), "missing_file", "b.wav"),
        (line(path="sub"), "missing_file", "sub"),
        (line(path="../a.wav"), "outside_root", "audio root"),
        (line(path="/etc/hostname"), "outside_root", "/etc/hostname"),
        (line(path="a\0.wav"), "unreadable_file", "null"),
        (line(path="x" * 300), "unreadable_file", "too long"),
        ({"path": "a.wav"}, "missing_caption", "caption"),
        (line(captions=None), "missing_caption", "caption"),
        (line(captions=[]), "empty_caption", "empty"),
        (line(captions=["", "  "]), "empty_caption", "empty"),
        ({"path": "a.wav", "caption": ""}, "empty_caption", "empty"),
        (line(captions=[3]), "bad_field", "captions"),
        (line(captions={"en": "x"}), "bad_field", "captions"),
        (line(captions=["a half \ud83d"]), "bad_text", "\\ud83d"),
        (line(split="dev-clean"), "bad_field", "dev-clean"),
        (line(split="all"), "bad_field", "another name"),
        (line(labels="dog"), "bad_field", "labels"),
        (line(labels=["dog", 3]), "bad_field", "labels"),
        (line(regions=[[2.0, 1.0, "x"]]), "bad_field", "regions"),
        (line(regions=[{"onset_s": 0}]), "bad_field", "regions"),
        (line(duration_s=-1), "bad_field", "duration_s"),
        (line(duration_s="long"), "bad_field", "duration_s"),
        (line(duration_s=float("nan")), "bad_field", "duration_s"),
        (line(id=[1]), "bad_field", "id"),
        (line(labels=["x" * 9_999, 0]), "bad_field", "..."),
    ],
)
def test_bad_lines_are_rejected_with_their_reason(audio, fields, reason, words):
    actual, detail = reject(audio, fields)
    assert actual == reason
    assert words in detail
    assert len(detail) < 1_000


def test_a_rejected_line_is_named_by_its_id_or_path(audio):
    manifest = write_manifest(audio, [line(path="no.wav"), line(id="x", split="?"), "{"])
    assert [rejection.id for rejection in listed(Manifest(manifest))[1]] == ["no.wav", "x", ""]


def test_one_line_that_is_not_utf8_is_one_rejection(audio):
    first, last = (json.dumps(line(id=number)).encode() for number in (1, 3))
    (audio / "m.jsonl").write_bytes(first + b'\n{"path": "caf\xe9.wav"}\n' + last)
    entries, (rejection,) = listed(Manifest(audio / "m.jsonl"))
    assert [entry.where for entry in entries] == ["m.jsonl:1", "m.jsonl:3"]
    assert (rejection.where, rejection.reason) == ("m.jsonl:2", "bad_text")
    assert "byte 0xe9 at 13" in rejection.detail


def test_a_line_of_10_megabytes_is_one_rejection(audio):
    manifest = write_manifest(audio, [line(id=1), line(captions=["x" * 10_000_000]), line(id=3)])
    entries, (rejection,) = listed(Manifest(manifest))
    assert [entry.where for entry in entries] == ["manifest.jsonl:1", "manifest.jsonl:3"]
    assert (rejection.where, rejection.reason) == ("manifest.jsonl:2", "long_text")


def test_a_caption_of_10000_words_is_kept(audio):
    caption = " ".join(["word"] * 10_000)
    entries, rejections = listed(Manifest(write_manifest(audio, [line(captions=[caption])])))
    assert entries[0].captions == (caption,) and not rejections


def test_labels_replace_captions(audio):
    lines = [{"path": "a.wav", "labels": ["dog", " "]}, line(id=2, captions=[""], labels=["dog"])]
    manifest = write_manifest(audio, lines)
    entries, rejections = listed(Manifest(manifest))
    assert [(entry.captions, entry.labels) for entry in entries] == [((), ("dog",))] * 2 and not rejections


def test_empty_captions_among_good_ones_are_dropped(audio):
    entries, rejections = listed(Manifest(write_manifest(audio, [line(captions=["", "a tone", " "])])))
    assert entries[0].captions == ("a tone",) and not rejections


def test_equal_ids_of_two_files_are_kept_for_the_preparation(audio):
    entries, rejections = listed(Manifest(write_manifest(audio, [line(id="x"), line(id="x", path="sub/b.wav")])))
    assert [entry.id for entry in entries] == ["x", "x"] and not rejections


def test_audio_root(audio, tmp_path_factory):
    manifest = write_manifest(tmp_path_factory.mktemp("elsewhere"), [line(), line(path=str(audio / "sub/b.wav"))])
    entries, rejections = listed(Manifest(manifest, audio))
    assert [entry.audio for entry in entries] == [AudioFile(audio / "a.wav"), AudioFile(audio / "sub/b.wav")]
    assert not rejections
    assert Manifest(manifest, audio).name == collection_name(audio) and Manifest(manifest, audio, "mine").name == "mine"
    assert reasons(Manifest(manifest)) == {"manifest.jsonl:1": "missing_file", "manifest.jsonl:2": "outside_root"}


def test_links_are_followed_and_a_link_to_itself_is_rejected(audio, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_tone(elsewhere / "c.wav")
    (audio / "linked").symlink_to(elsewhere)
    (audio / "loop.wav").symlink_to("loop.wav")
    (audio / "broken.wav").symlink_to("nowhere.wav")
    manifest = write_manifest(audio, [line(path=path) for path in ("linked/c.wav", "loop.wav", "broken.wav")])
    entries, rejections = listed(Manifest(manifest))
    assert [entry.audio for entry in entries] == [AudioFile(audio / "linked/c.wav")]
    assert [rejection.reason for rejection in rejections] == ["unreadable_file", "missing_file"]
    assert "symbolic links" in rejections[0].detail


def test_line_separators_inside_captions_do_not_end_a_line(audio):
    text = json.dumps(line(captions=["one\u2028two\x85three"]), ensure_ascii=False)
    entries, rejections = listed(Manifest(write_manifest(audio, [text])))
    assert entries[0].captions == ("one\u2028two\x85three",) and not rejections


def test_memory_does_not_grow_with_the_manifest(audio):
    peaks = []
    for count in (10, 1_000):
        manifest = write_manifest(audio, [line(id=number, captions=["x" * 400]) for number in range(count)])
        tracemalloc.start()
        assert sum(isinstance(clip, Entry) for clip in Manifest(manifest).entries()) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 50_000 < manifest.stat().st_size / 8


def test_listing_twice_gives_the_same(audio):
    manifest = Manifest(write_manifest(audio, [line(id=number) for number in range(9)]))
    assert all(first == second for first, second in zip(manifest.entries(), manifest.entries(), strict=True))


# CSV -----------------------------------------------------------------------------------------------------------------


def test_csv(audio):
    manifest = write_csv(
        audio,
        "path,caption_1,caption_2,labels,split,duration_s,notes,id\r\n"
        'a.wav,"a tone, quiet",,drum=kick;dog,test,0.25,x\r\n'
        "\r\n"
        'sub/b.wav,"two\r\nlines",c,,,,\r\n'
        "sub/b.wav,,,,,,,2\r\n"
        "a.wav,d,,,,soon,,3\r\n"
        "./sub/../sub/b.wav,e,,,,,,4\r\n",
        "utf-8-sig",
    )
    (first, second, last), rejections = listed(manifest)
    assert first.captions == ("a tone, quiet",) and first.labels == ("drum=kick", "dog")
    assert (first.split, first.duration_s, first.where) == ("test", 0.25, "clips.csv:2")
    assert (second.captions, second.split, second.where) == (("two\r\nlines", "c"), "train", "clips.csv:4")
    assert (last.captions, last.where) == (("e",), "clips.csv:8")
    assert [(rejection.where, rejection.reason) for rejection in rejections] == [
        ("clips.csv:6", "empty_caption"),
        ("clips.csv:7", "bad_field"),
    ]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_of_a_spreadsheet_without_commas(audio, delimiter):
    rows = [
        ("path", "caption", "labels"),
        ("a.wav", '"a tone, quiet"', '"drum=kick;dog"'),
        ("sub/b.wav", f'"two{delimiter}parts"', ""),
        ("c.wav", "b", "c", "d"),
        ("a.wav", "again", ""),
    ]
    manifest = write_csv(audio, "\r\n".join(delimiter.join(row) for row in rows), "utf-8-sig")
    (first, second), (rejection,) = listed(manifest)
    assert (first.captions, first.labels) == (("a tone, quiet", "again"), ("drum=kick", "dog"))
    assert second.captions == (f"two{delimiter}parts",)
    assert rejection.reason == "bad_csv" and "4 values for 3 columns" in rejection.detail
    assert ("semicolon" if delimiter == ";" else "tab") in rejection.detail


@pytest.mark.parametrize(
    ("row", "reason", "words"),
    [
        ("a.wav,a tone, quiet", "bad_csv", "3 values for 2 columns"),
        ('a.wav,"a "loud" tone"', "bad_csv", "quote"),
        ("a.wav,caf\xe9", "bad_text", "byte 0xe9 at 9"),
        ("a.wav," + "x" * 200_000, "bad_csv", "field limit"),
        ("a.wav," + "x" * 10_000_000, "long_text", "4 MiB"),
        ("no.wav,x", "missing_file", "no.wav"),
    ],
)
def test_bad_csv_rows_are_rejected_between_good_ones(audio, row, reason, words):
    write_tone(audio / "sub" / "c.wav")
    entries, (rejection,) = listed(write_csv(audio, f"path,caption\nsub/b.wav,b\n{row}\n./sub/c.wav,c\n", "latin-1"))
    assert [entry.captions for entry in entries] == [("b",), ("c",)]
    assert (rejection.where, rejection.reason) == ("clips.csv:3", reason)
    assert words in rejection.detail


def test_a_quote_that_is_never_closed_is_a_rejection(audio):
    entries, (rejection,) = listed(write_csv(audio, 'path,caption\na.wav,"b\na.wav,c\na.wav,d'))
    assert not entries
    assert (rejection.where, rejection.reason) == ("clips.csv:2", "bad_csv") and "lines 2 to 4" in rejection.detail
    assert rejection.clips == 3


def test_csv_of_labels_only(audio):
    (entry,), rejections = listed(write_csv(audio, "path,labels\na.wav,label=dog\n"))
    assert (entry.captions, entry.labels) == ((), ("label=dog",)) and not rejections


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,text\na.wav,b\n", "columns file, text; expected at least path and caption"),
        ("file,text\na.wav,b\n", "rename 'file' to 'path' and 'text' to 'caption'$"),
        ("Path,Caption\na.wav,b\n", "rename 'Path' to 'path' and 'Caption' to 'caption'$"),
        ("path;Description\na.wav;b\n", "columns path, Description; .* rename 'Description' to 'caption'$"),
        ("path,name\na.wav,b\n", r"columns path, name; .* or labels$"),
        ("", r"columns \(none\)"),
        ("path,caption,caption\na.wav,b,c\n", "several columns called 'caption'"),
        ("path,cap\rtion", "no CSV header"),
    ],
)
def test_csv_without_the_needed_columns(audio, text, words):
    with pytest.raises(CollectionError, match=words):
        write_csv(audio, text)


# Whole files ---------------------------------------------------------------------------------------------------------


def test_manifests_that_cannot_be_read(tmp_path):
    with pytest.raises(CollectionError, match=r"no\.jsonl is missing"):
        Manifest(tmp_path / "no.jsonl")
    for text in ("", "\n\n"):
        (tmp_path / "m.jsonl").write_text(text)
        with pytest.raises(CollectionError, match=r"m\.jsonl holds no clips"):
            listed(Manifest(tmp_path / "m.jsonl"))
    (tmp_path / "m.jsonl").write_text("{}", encoding="utf-16")
    with pytest.raises(CollectionError, match="UTF-16"):
        listed(Manifest(tmp_path / "m.jsonl"))
    (tmp_path / "m.jsonl").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 7\n")
    (tmp_path / "m.csv").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 7\n")
    with pytest.raises(CollectionError, match=r"m\.jsonl is a Git LFS pointer"):
        listed(Manifest(tmp_path / "m.jsonl"))
    with pytest.raises(CollectionError, match=r"m\.csv is a Git LFS pointer"):
        Manifest(tmp_path / "m.csv")
