import io
import os
import tarfile
import tracemalloc
import unicodedata

import numpy as np
import pytest

from slap_jax.data.audio import decode_audio
from slap_jax.data.collections import webdataset
from slap_jax.data.collections.entries import ArchiveMember
from slap_jax.data.collections.fields import CollectionError
from slap_jax.data.collections.read_audio import read_audio
from slap_jax.data.collections.webdataset import (
    WebDataset,
    expand_braces,
    files_of_pattern,
    folder_of_pattern,
    is_pattern,
)
from tests.data.listing import listed, reasons
from tests.data.tiny_data import encoded, tone
from tests.data.tiny_tars import FLAC, sample, write_tar

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 7\n"

# The layout ----------------------------------------------------------------------------------------------------------


def test_laion_layout(tmp_path):
    description = {
        "text": ["a door creaks", "", "a creaky door"],
        "tag": ["door", "creak_2"],
        "original_data": {"title": "Door", "license": "CC0", "split": "dev-clean"},
        "caption_source": "people",
    }
    write_tar(tmp_path / "train" / "0.tar", [("0.flac", FLAC), ("0.json", description), *sample("1")])
    write_tar(tmp_path / "train" / "1.tar", sample("0", "another"))
    write_tar(tmp_path / "valid" / "0.tar", sample("0"))
    write_tar(tmp_path / "mine" / "test-000.tar", sample("0"))
    (tmp_path / "train" / "sizes.json").write_text('{"0.tar": 2, "1.tar": 1}')
    dataset = WebDataset(tmp_path, "laion")
    entries, rejections = listed(dataset)
    assert not rejections
    assert [(entry.id, entry.split) for entry in entries] == [
        ("mine/test-000/0", "test"),
        ("train/0/0", "train"),
        ("train/0/1", "train"),
        ("train/1/0", "train"),
        ("valid/0/0", "valid"),
    ]
    door = entries[1]
    assert door.captions == ("a door creaks", "a creaky door") and door.labels == ("door", "creak 2")
    assert (door.licence, door.caption_source, door.source, door.where) == ("CC0", "people", "laion", "train/0.tar/0")
    assert isinstance(door.audio, ArchiveMember) and door.audio.member == "0.flac"
    assert [clip.captions for clip in entries[2:4]] == [("a tone",), ("another",)]


def test_audio_is_read_where_the_headers_say(tmp_path):
    tones = [encoded(tone(0.1, frequency), container="FLAC") for frequency in (300, 600, 900)]
    write_tar(tmp_path / "0.tar", [pair for key, data in enumerate(tones) for pair in sample(str(key), audio=data)])
    entries, _ = listed(WebDataset(tmp_path / "0.tar"))
    assert [read_audio(entry.audio) for entry in entries] == tones
    np.testing.assert_allclose(decode_audio(read_audio(entries[1].audio)), tone(0.1, 600), atol=1e-3)


@pytest.mark.parametrize(
    ("json_of_sample", "captions", "labels"),
    [
        ({"text": "one text"}, ("one text",), ()),
        ({"caption": "a", "text": "unused"}, ("a",), ()),
        ({"captions": ["b", "c"]}, ("b", "c"), ()),
        ({"caption_10": "ten", "caption_2": "two"}, ("two", "ten"), ()),
        ({"tag": ["dog"]}, (), ("dog",)),
        ({"label": "sea_waves"}, (), ("label=sea waves",)),
        ({"labels": {"drum": "kick"}, "text": []}, (), ("drum=kick",)),
    ],
)
def test_keys_of_the_json(tmp_path, json_of_sample, captions, labels):
    write_tar(tmp_path / "0.tar", [("0.wav", b"RIFF"), ("0.json", json_of_sample)])
    (entry,), rejections = listed(WebDataset(tmp_path / "0.tar"))
    assert (entry.captions, entry.labels) == (captions, labels) and not rejections


def test_chosen_keys_and_split(tmp_path):
    write_tar(tmp_path / "0.tar", [("0.flac", FLAC), ("0.json", {"text": "x", "title": "y", "genre": "hard_rock"})])
    options = {"caption_columns": ["title", "text"], "label_columns": ["genre"], "split": "test"}
    (entry,), _ = listed(WebDataset(tmp_path / "0.tar", **options))
    assert (entry.captions, entry.labels, entry.split) == (("y", "x"), ("genre=hard rock",), "test")


def test_the_split_of_the_json_overrides_the_folders(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", [("0.flac", FLAC), ("0.json", {"text": "x", "split": "dev-clean"})])
    (entry,), _ = listed(WebDataset(tmp_path))
    assert entry.split == "dev_clean"


def test_text_files_are_captions_too(tmp_path):
    members = [
        ("a.mp3", b"x"),
        ("a.txt", b"first\nsecond\n"),
        ("b.opus", b"x"),
        ("b.json", {"tag": ["dog"]}),
        ("b.txt", "caf\u00e9".encode()),
        ("deep/c.M4A", b"x"),
        ("deep/c.json", {"text": "the json has priority"}),
        ("deep/c.txt", b"unused"),
        ("c.cls", b"7"),
        ("._c.flac", b"of a Macintosh"),
    ]
    entries, rejections = listed(WebDataset(write_tar(tmp_path / "0.tar", members)))
    assert {entry.id: entry.captions for entry in entries} == {
        "0/a": ("first", "second"),
        "0/b": ("caf\u00e9",),
        "0/deep/c": ("the json has priority",),
    }
    assert entries[1].labels == ("dog",) and not rejections


def test_members_in_any_order(tmp_path):
    members = [*sample("0"), *sample("1"), *sample("2")]
    write_tar(tmp_path / "0.tar", [*members[::2], *members[1::2]])
    entries, rejections = listed(WebDataset(tmp_path / "0.tar"))
    assert [entry.id for entry in entries] == ["0/0", "0/1", "0/2"] and not rejections


# Patterns ------------------------------------------------------------------------------------------------------------


def test_patterns(tmp_path):
    for number in range(12):
        write_tar(tmp_path / "shards" / f"{number:03d}.tar", sample("0"))
    entries, _ = listed(WebDataset(f"{tmp_path}/shards/{{009..011}}.tar"))
    assert [entry.id for entry in entries] == ["009/0", "010/0", "011/0"]
    assert WebDataset(f"{tmp_path}/shards/{{009..011}}.tar").name == f"{tmp_path.name}/shards"
    entries, _ = listed(WebDataset(f"{tmp_path}/*/00[13].tar"))
    assert [entry.id for entry in entries] == ["shards/001/0", "shards/003/0"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{8..13}.tar", "2 are missing, the first of them .*12.tar"),
        ("nothing-*.tar", "missing, the first of them .*nothing"),
        ("12.tar", "is missing"),
    ],
)
def test_missing_tars_are_one_error(tmp_path, pattern, words):
    for number in range(12):
        write_tar(tmp_path / f"{number}.tar", sample("0"))
    with pytest.raises(CollectionError, match=words):
        WebDataset(f"{tmp_path}/{pattern}")


# Defects -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "reason", "words"),
    [
        ([("x.flac", FLAC)], "missing_caption", "neither .json nor .txt"),
        ([("x.json", {"text": "a"})], "missing_audio", "no audio"),
        ([("x.txt", b"a")], "missing_audio", "no audio"),
        ([("x.flac", FLAC), ("x.json", {"title": "a"})], "missing_caption", "neither a caption nor a label"),
        ([("x.flac", FLAC), ("x.json", {"text": [" "]})], "empty_caption", "empty"),
        ([("x.flac", FLAC), ("x.json", {"text": 3})], "bad_field", "text is 3"),
        ([("x.flac", FLAC), ("x.json", {"text": "a", "tag": [0.5]})], "bad_field", "tag is 0.5"),
        ([("x.flac", FLAC), ("x.json", ["a"])], "bad_field", "list"),
        ([("x.flac", FLAC), ("x.json", b"{")], "bad_json", "x.json"),
        ([("x.flac", FLAC), ("x.json", b'{"text": "\xff"}')], "bad_text", "0xff"),
        ([("x.flac", FLAC), ("x.txt", b"\xff")], "bad_text", "x.txt"),
        ([("x.flac", FLAC), ("x.json", b" " * 5_000_000)], "long_text", "4 MiB"),
        ([*sample("x"), ("x.flac", FLAC)], "duplicate_key", "two members x.flac"),
        ([("x.a.flac", FLAC), ("x.b.flac", FLAC), ("x.json", {"text": "a"})], "duplicate_key", "first dot"),
        ([*sample("x"), ("x.json", {"text": "b"})], "duplicate_key", "two members x.json"),
    ],
)
def test_bad_samples_are_rejected_between_good_ones(tmp_path, members, reason, words):
    archive = write_tar(tmp_path / "0.tar", [*sample("good"), *members, *sample("better")])
    entries, (rejection,) = listed(WebDataset(archive))
    assert [entry.id for entry in entries] == ["0/good", "0/better"]
    assert (rejection.where, rejection.id, rejection.reason) == ("0.tar/x", "0/x", reason)
    assert words in rejection.detail


@pytest.mark.parametrize(
    ("members", "clips"),
    [
        ([(f"rec.{number}.{suffix}", FLAC) for number in range(5) for suffix in ("flac", "txt")], 5),
        ([("x.flac", FLAC), ("x.mp3", FLAC), ("x.txt", b"a")], 1),  # two encodings of one clip
        ([("x.flac", FLAC), ("x.txt", b"a"), ("x.txt", b"b")], 1),
    ],
)
def test_keys_that_collapse_count_all_their_clips(tmp_path, members, clips):
    archive = write_tar(tmp_path / "0.tar", [*sample("good"), *members])
    (entry,), (rejection,) = listed(WebDataset(archive))
    assert entry.id == "0/good"
    assert (rejection.reason, rejection.clips) == ("duplicate_key", clips)


def test_the_member_without_a_suffix_of_audio_is_named(tmp_path):
    archive = write_tar(tmp_path / "0.tar", [*sample("good"), ("x.aaa", FLAC), ("x.json", {"text": "a"})])
    _, (rejection,) = listed(WebDataset(archive))
    assert rejection.reason == "missing_audio" and "x.aaa has no suffix of audio" in rejection.detail


def test_members_of_two_unicode_forms_are_one_sample(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "Übung") for form in ("NFC", "NFD"))
    archive = write_tar(tmp_path / "0.tar", [(f"{nfc}.flac", FLAC), (f"{nfd}.txt", b"a")])
    (entry,), rejections = listed(WebDataset(archive))
    assert (entry.id, entry.captions) == (f"0/{nfc}", ("a",)) and not rejections
    assert read_audio(entry.audio) == FLAC


def test_a_repeated_key_is_kept_for_the_preparation(tmp_path):
    archive = write_tar(tmp_path / "0.tar", [*sample("x"), *sample("y"), *sample("x")])
    assert [entry.id for entry in listed(WebDataset(archive))[0]] == ["0/x", "0/y", "0/x"]


@pytest.mark.parametrize(
    ("block", "good"),
    [
        # Each sample takes 4 blocks of 512 bytes: header, FLAC, header, JSON.
        (0.5, 0),
        (4.0, 1),  # between two samples: only the missing end of the tar shows it
        (4.5, 1),
        (5.5, 1),  # inside audio
        (6.0, 1),
        (7.01, 1),  # inside a JSON
        (8.0, 2),
        (9.5, 2),
    ],
)
def test_a_truncated_tar_is_one_rejection_after_its_intact_samples(tmp_path, block, good):
    short = bytes(500)
    archive = write_tar(tmp_path / "a.tar", [pair for key in range(3) for pair in sample(str(key), audio=short)])
    write_tar(tmp_path / "b.tar", sample("0"))
    os.truncate(archive, round(512 * block))
    entries, (rejection,) = listed(WebDataset(tmp_path))
    assert [entry.id for entry in entries] == [*(f"a/{key}" for key in range(good)), "b/0"]
    assert (rejection.where, rejection.reason) == ("a.tar", "damaged_archive") and "copy it again" in rejection.detail


def test_damaged_tars(tmp_path):
    archive = write_tar(tmp_path / "a.tar", [*sample("0"), *sample("1"), *sample("2")])
    with tarfile.open(archive) as tar:
        header = tar.getmembers()[2].offset
    data = bytearray(archive.read_bytes())
    data[header : header + 200] = b"\xff" * 200
    archive.write_bytes(data)
    (tmp_path / "b.tar").write_bytes(b"")
    (tmp_path / "c.tar").write_bytes(b"This is no tar at all. " * 100)
    (tmp_path / "d.tar").write_bytes(bytes(10_240))  # an empty tar
    write_tar(tmp_path / "f.tar", sample("0"))
    entries, _ = listed(WebDataset(tmp_path))
    assert [entry.id for entry in entries] == ["a/0", "f/0"]
    assert reasons(WebDataset(tmp_path)) == dict.fromkeys(["a.tar", "b.tar", "c.tar"], "damaged_archive")


def truncated(folder, name, clips, kept):
    """Writes a tar of some clips and cuts it inside the audio of the first that is not kept."""
    archive = write_tar(folder / name, [pair for key in range(clips) for pair in sample(str(key), audio=bytes(500))])
    os.truncate(archive, round(512 * (4 * kept + 1.5)))
    return archive


def test_the_clips_of_damaged_tars_are_counted_as_sizes_json_states(tmp_path):
    truncated(tmp_path, "a.tar", 9, kept=4)
    truncated(tmp_path, "b.tar", 5, kept=0)
    write_tar(tmp_path / "c.tar", [*sample("0"), *sample("1"), ("2.flac", FLAC)])
    write_tar(tmp_path / "d.tar", sample("0"))
    (tmp_path / "sizes.json").write_text('{"a.tar": 9, "b.tar": 5, "c.tar": 3, "d.tar": 4}')
    entries, rejections = listed(WebDataset(tmp_path))
    assert len(entries) == 4 + 2 + 1
    assert [(each.where, each.reason, each.clips) for each in rejections] == [
        ("c.tar/2", "missing_caption", 1),
        ("a.tar", "damaged_archive", 5),
        ("b.tar", "damaged_archive", 5),
        ("d.tar", "damaged_archive", 3),
    ]
    assert "4 clips of it were read, it should hold 9" in rejections[1].detail
    assert len(entries) + sum(each.clips for each in rejections) == 9 + 5 + 3 + 4


def test_the_clips_of_a_damaged_tar_are_those_of_the_largest_intact_one(tmp_path):
    truncated(tmp_path, "a.tar", 9, kept=2)
    for name, clips in (("b.tar", 3), ("c.tar", 6)):
        write_tar(tmp_path / name, [pair for key in range(clips) for pair in sample(str(key))])
    (tmp_path / "sizes.json").write_text("[]")
    _, (rejection,) = listed(WebDataset(tmp_path))
    assert (rejection.where, rejection.clips) == ("a.tar", 4)
    assert "the largest intact file has 6" in rejection.detail


def test_a_damaged_tar_of_unknown_size_ends_the_listing(tmp_path):
    archive = truncated(tmp_path, "a.tar", 9, kept=2)
    with pytest.raises(CollectionError, match=r"a\.tar: it is truncated .*2 clips .* how many are missing is unknown"):
        listed(WebDataset(archive))


@pytest.mark.parametrize("padding", [0, 512, 100_000])
def test_joined_tars_are_read_to_the_end(tmp_path, padding):
    parts = [write_tar(tmp_path / f"{name}.part", sample(name)) for name in "abc"]
    (tmp_path / "all.tar").write_bytes(bytes(padding - padding % 512).join(part.read_bytes() for part in parts))
    entries, rejections = listed(WebDataset(tmp_path / "all.tar"))
    assert [entry.id for entry in entries] == ["all/a", "all/b", "all/c"] and not rejections
    assert [read_audio(entry.audio) for entry in entries] == [FLAC] * 3


def test_what_follows_the_end_of_a_tar_and_is_no_tar_is_damage(tmp_path):
    write_tar(tmp_path / "b.tar", sample("0"))
    archive = write_tar(tmp_path / "a.tar", sample("0"))
    archive.write_bytes(archive.read_bytes() + b"no header" * 100)
    entries, (rejection,) = listed(WebDataset(tmp_path))
    assert len(entries) == 2 and (rejection.where, rejection.reason) == ("a.tar", "damaged_archive")


def test_a_download_that_reserved_its_space_is_damaged(tmp_path):
    write_tar(tmp_path / "b.tar", sample("0"))
    archive = write_tar(tmp_path / "a.tar", sample("0"))
    os.truncate(archive, 5 << 20)
    entries, (rejection,) = listed(WebDataset(tmp_path))
    assert len(entries) == 2 and rejection.where == "a.tar" and "bytes are zeros" in rejection.detail


def test_git_lfs_pointers_are_refused(tmp_path):
    write_tar(tmp_path / "a.tar", sample("0"))
    for name in "bc":
        (tmp_path / f"{name}.tar").write_bytes(POINTER)
    words = r"b\.tar is a Git LFS pointer, not the file of 7 bytes; .*`git lfs pull` \(2 of 3 tars are pointers\)"
    with pytest.raises(CollectionError, match=words):
        WebDataset(tmp_path)


@pytest.mark.parametrize(
    ("mode", "name"), [("w:gz", "0.tar.gz"), ("w:gz", "0.tar"), ("w:bz2", "0.tar"), ("w:xz", "0.tar")]
)
def test_compressed_tars_are_refused(tmp_path, mode, name):
    with tarfile.open(tmp_path / name, mode) as tar:
        tar.addfile(tarfile.TarInfo("0.flac"), io.BytesIO())
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(CollectionError, match=r"compressed with (gzip|bzip2|xz).* -d "):
            WebDataset(source)


def test_folders_without_samples(tmp_path):
    with pytest.raises(CollectionError, match="holds no clips"):
        listed(WebDataset(tmp_path))
    write_tar(tmp_path / "0.tar", [("readme", b"nothing here")])
    with pytest.raises(CollectionError, match="holds no clips"):
        listed(WebDataset(tmp_path))


def test_memory_does_not_grow_with_the_tar(tmp_path):
    peaks = []
    for count in (3, 300):
        members = [pair for key in range(count) for pair in sample(str(key), audio=bytes(500))]
        archive = write_tar(tmp_path / f"{count}.tar", members)
        tracemalloc.start()
        assert sum(1 for _ in WebDataset(archive).entries()) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 50_000  # the headers alone are six times as much


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{008..011}", ["008", "009", "010", "011"]),
        ("{0..2}", ["0", "1", "2"]),
        ("{00..2}", ["00", "01", "02"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{train,test}/{0..1}", ["train/0", "train/1", "test/0", "test/1"]),
        ("a{}b", ["ab"]),
        ("{a..c}", ["a..c"]),
    ],
)
def test_braces(pattern, names):
    assert list(expand_braces(pattern)) == names
    assert is_pattern(pattern) == ("{" in pattern)


def test_order_of_braces_and_wildcards(tmp_path):
    for name in ("b1", "a2", "a1", "b2"):
        (tmp_path / name).touch()
    (tmp_path / "a3").mkdir()
    assert [path.name for path in files_of_pattern(f"{tmp_path}/{{b,a}}*")] == ["b1", "b2", "a1", "a2"]


def test_folder_of_a_pattern():
    assert str(folder_of_pattern("data/x/{0..9}.tar")) == "data/x"
    assert str(folder_of_pattern("data/x*/{0..9}.tar")) == "data"
    assert str(folder_of_pattern("{0..9}.tar")) == "."
    assert str(folder_of_pattern("/d/0.tar")) == "/d"


def test_a_pattern_of_too_many_files_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "_MOST_FILES", 1_000)
    with pytest.raises(CollectionError, match="names more than 1000 files"):
        files_of_pattern(f"{tmp_path}/{{0..99999999999}}.tar")
