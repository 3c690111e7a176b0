from pathlib import Path

import pytest

from slap_jax.data.collections.entries import (
    ArchiveMember,
    AudioFile,
    Entry,
    Rejection,
    TableCell,
    entry_from_json,
    entry_to_json,
    file_of,
    reject_unstorable,
)

FILE = AudioFile(Path("/data/a.wav"))


@pytest.mark.parametrize(
    "entry",
    [
        Entry("a", FILE, (), "train"),
        Entry("a", AudioFile(Path("/data/\udcff/a.wav")), ("\u2028", "\n"), "test", duration_s=0.1, where="m:1"),
        Entry("a", FILE, (), "train", group="speaker 1"),
        Entry("a", ArchiveMember(Path("a.tar"), "x/b.flac", 512, 9), ("b",), "train", labels=("x=y",), source="s"),
        Entry("a", TableCell(Path("t.parquet"), "audio", 7), ("b",), "train", regions=((0.0, 0.125, "c"),)),
    ],
)
def test_entries_come_back_from_json(entry):
    line = entry_to_json(entry, version=[1, 2])
    assert "\n" not in line and entry_from_json(line) == entry


def test_the_json_of_an_entry_is_stable():
    # The digests of prepared shards depend on it: another form would prepare all data again.
    assert entry_to_json(Entry("a", FILE, ("b",), "train"), version=None) == (
        '{"id": "a", "audio": {"kind": "AudioFile", "path": "/data/a.wav"}, "captions": ["b"], "split": "train", '
        '"labels": [], "regions": [], "source": "", "caption_source": "", "licence": "", "duration_s": null, '
        '"where": "", "version": null}'
    )


def test_location_file_paths():
    assert file_of(FILE) == Path("/data/a.wav")
    assert file_of(ArchiveMember(Path("a.tar"), "m", 0, 1)) == Path("a.tar")
    assert file_of(TableCell(Path("t.parquet"), "audio", 0)) == Path("t.parquet")


def test_rejections_can_always_be_printed():
    rejection = Rejection("caf\udce9.wav", "caf\udce9", "bad_json", "caf\udce9.json is not JSON")
    assert "".join((rejection.where, rejection.id, rejection.detail)).encode()
    assert rejection.where == "caf\\udce9.wav"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": "caf\udce9.wav"}, "bad_name"),
        ({"source": "\udcff"}, "bad_name"),
        ({"captions": ("good", "half \ud83d")}, "bad_text"),
        ({"labels": ("label=\udcff",)}, "bad_text"),
        ({"regions": ((0.0, 1.0, "\ud83d"),)}, "bad_text"),
        ({"licence": "\ud83d"}, "bad_text"),
    ],
)
def test_entries_that_no_record_can_store_are_rejections(fields, reason):
    bad = Entry(**{"id": "a", "audio": FILE, "captions": ("b",), "split": "train", "where": "m:1", **fields})
    good, other = Entry("ä", FILE, ("\U0001f600",), "train"), Rejection("m:2", "x", "bad_json", "")
    first, rejection, last = reject_unstorable([good, bad, other])
    assert (first, last) == (good, other)
    assert isinstance(rejection, Rejection) and (rejection.where, rejection.reason) == ("m:1", reason)
    assert rejection.detail.encode()
