import json

import pytest

from slap_jax.data.entries import AudioFile, count_reasons
from slap_jax.data.manifest import ManifestError, read_manifest
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
    """Returns the reason and detail with which one line is rejected beside a good one."""
    manifest = write_manifest(folder, [line(id="good"), fields])
    entries, rejections = read_manifest(manifest)
    assert [entry.id for entry in entries] == ["good"] and len(rejections) == 1
    assert rejections[0].where == "manifest.jsonl:2"
    return rejections[0].reason, rejections[0].detail


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
    (first, second), rejections = read_manifest(manifest)
    assert not rejections
    assert (first.id, first.audio, first.split) == ("sub/b.wav", AudioFile(audio / "sub/b.wav"), "val")
    assert first.captions == ("a tone", "a beep")
    assert first.labels == ("drum=kick drum", "mood=calm", "mood=dull")
    assert first.regions == ((0.0, 0.1, "beep"), (0.1, 0.2, "rest"))
    assert (first.source, first.caption_source, first.licence, first.duration_s) == ("lab", "people", "CC0", 0.25)
    assert (second.id, second.split, second.captions) == ("7", "train", ("one caption",))
    assert (second.labels, second.licence, second.source) == (("dog", "x=y"), "MIT", audio.name)
    assert second.where == "manifest.jsonl:2"


@pytest.mark.parametrize(
    ("fields", "reason", "words"),
    [
        ('{"path": "a.wav"', "bad_json", "column"),
        ('["a.wav"]', "bad_field", "list"),
        ({"captions": ["x"]}, "bad_field", "path"),
        (line(path="nothing.wav"), "missing_file", "nothing.wav"),
        (line(path="sub"), "missing_file", "sub"),
        (line(path="../a.wav"), "outside_root", "audio root"),
        (line(path="/etc/hostname"), "outside_root", "/etc/hostname"),
        ({"path": "a.wav"}, "missing_caption", "caption"),
        (line(captions=[]), "empty_caption", "empty"),
        (line(captions=["", "  "]), "empty_caption", "empty"),
        ({"path": "a.wav", "caption": ""}, "empty_caption", "empty"),
        (line(captions=[3]), "bad_field", "captions"),
        (line(captions={"en": "x"}), "bad_field", "captions"),
        (line(split="dev-clean"), "bad_field", "dev-clean"),
        (line(labels="dog"), "bad_field", "labels"),
        (line(regions=[[2.0, 1.0, "x"]]), "bad_field", "regions"),
        (line(regions=[{"onset_s": 0}]), "bad_field", "regions"),
        (line(duration_s=-1), "bad_field", "duration_s"),
        (line(duration_s="long"), "bad_field", "duration_s"),
        (line(id=[1]), "bad_field", "id"),
        (line(id="good"), "duplicate_id", "manifest.jsonl:1"),
    ],
)
def test_bad_lines_are_rejected_with_their_reason(audio, fields, reason, words):
    found, detail = reject(audio, fields)
    assert found == reason
    assert words in detail


def test_empty_captions_beside_good_ones_are_dropped(audio):
    entries, rejections = read_manifest(write_manifest(audio, [line(captions=["", "a tone", " "])]))
    assert entries[0].captions == ("a tone",) and not rejections


def test_same_id_in_two_sources_is_no_duplicate(audio):
    entries, rejections = read_manifest(write_manifest(audio, [line(source="a"), line(source="b")]))
    assert len(entries) == 2 and not rejections


def test_audio_root(audio, tmp_path_factory):
    manifest = write_manifest(tmp_path_factory.mktemp("elsewhere"), [line(), line(path=str(audio / "sub/b.wav"))])
    entries, rejections = read_manifest(manifest, audio)
    assert [entry.audio for entry in entries] == [
        AudioFile(audio / "a.wav"),
        AudioFile(audio / "sub/b.wav"),
    ] and not rejections
    assert count_reasons(read_manifest(manifest)[1]) == {"missing_file": 1, "outside_root": 1}


def test_line_separators_inside_captions_do_not_end_a_line(audio):
    text = json.dumps(line(captions=["one\u2028two\x85three"]), ensure_ascii=False)
    entries, rejections = read_manifest(write_manifest(audio, [text]))
    assert entries[0].captions == ("one\u2028two\x85three",) and not rejections


def test_csv(audio):
    manifest = audio / "clips.csv"
    manifest.write_text(
        "path,caption_1,caption_2,labels,split,duration_s,notes\r\n"
        'a.wav,"a tone, quiet",,drum=kick;dog,test,0.25,x\r\n'
        "sub/b.wav,b,c,,,,\r\n"
        "sub/b.wav,,,,,,\r\n"
        "a.wav,d,,,,soon,\r\n",
        encoding="utf-8-sig",
    )
    (first, second), rejections = read_manifest(manifest)
    assert first.captions == ("a tone, quiet",) and first.labels == ("drum=kick", "dog")
    assert (first.split, first.duration_s, second.captions, second.split) == ("test", 0.25, ("b", "c"), "train")
    assert [rejection.reason for rejection in rejections] == ["empty_caption", "bad_field"]


def test_csv_without_needed_columns(audio):
    (audio / "clips.csv").write_text("file,text\na.wav,b\n")
    with pytest.raises(ManifestError, match="columns file, text; expected at least path and caption"):
        read_manifest(audio / "clips.csv")


def test_folder_with_sidecars(tmp_path):
    for name in ("train/a.wav", "train/b.wav", "test/c.wav", "d.wav", "e.wav", ".hidden/f.wav"):
        write_tone(tmp_path / name)
    (tmp_path / "train/a.txt").write_text("first\n\nsecond\n")
    (tmp_path / "train/b.json").write_text(json.dumps({"caption": "b", "labels": ["x"], "split": "extra"}))
    (tmp_path / "test/c.txt").write_text("c")
    (tmp_path / "d.json").write_text("{")
    entries, rejections = read_manifest(tmp_path)
    found = {entry.id: (entry.captions, entry.split) for entry in entries}
    assert found == {
        "test/c.wav": (("c",), "test"),
        "train/a.wav": (("first", "second"), "train"),
        "train/b.wav": (("b",), "extra"),
    }
    assert {r.where: r.reason for r in rejections} == {"d.wav": "bad_json", "e.wav": "missing_caption"}


def test_manifests_that_cannot_be_read(tmp_path):
    with pytest.raises(ManifestError, match=r"no\.jsonl is missing"):
        read_manifest(tmp_path / "no.jsonl")
    with pytest.raises(ManifestError, match="holds no clips"):
        read_manifest(tmp_path)
    (tmp_path / "m.tsv").write_text("x")
    with pytest.raises(ManifestError, match=r"neither \.jsonl, \.csv nor a folder"):
        read_manifest(tmp_path / "m.tsv")
    (tmp_path / "m.jsonl").write_bytes(b'{"path": "\xff"}')
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_manifest(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_text("\n\n")
    with pytest.raises(ManifestError, match="holds no clips"):
        read_manifest(tmp_path / "m.jsonl")
