import json

import pytest

from slap_jax.data.collections.audiofolder import AudioFolder
from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.collections.entry_fields import CollectionError
from tests.data.listing import listed
from tests.data.tiny_data import write_manifest, write_tone


@pytest.fixture
def audio(tmp_path):
    for name in ("a.wav", "train/b.wav", "test/train/c.wav"):
        write_tone(tmp_path / name)
    return tmp_path


def test_metadata_at_any_depth(audio):
    (audio / "metadata.csv").write_text(
        'file_name,caption,label,licence,duration_s,regions\na.wav,"a, b",hard_rock,CC0,0.25,\ntrain/b.wav,c,,,,x\n'
    )
    rows = [{"file_name": "train/c.wav", "text": ["d", "e"], "tags": ["f"]}]
    write_manifest(audio / "test", rows, "metadata.jsonl")
    entries, rejections = listed(AudioFolder(audio, "mine"))
    assert not rejections
    assert [(entry.id, entry.split, entry.captions, entry.labels) for entry in entries] == [
        ("a.wav", "train", ("a, b",), ("label=hard rock",)),
        ("train/b.wav", "train", ("c",), ()),
        ("test/train/c.wav", "test", ("d", "e"), ("f",)),
    ]
    assert (entries[0].licence, entries[0].duration_s, entries[0].where) == ("CC0", 0.25, "metadata.csv:2")
    assert entries[2].audio == AudioFile(audio / "test/train/c.wav") and entries[2].where == "test/metadata.jsonl:1"
    assert {entry.source for entry in entries} == {"mine"}


def test_chosen_columns_and_split(audio):
    (audio / "metadata.csv").write_text("file_name,title,kind\na.wav,A,x_y\n")
    with pytest.raises(CollectionError, match=r"captions or labels; its columns are file_name, title, kind: name them"):
        listed(AudioFolder(audio))
    folder = AudioFolder(audio, split="test", caption_columns=["title"], label_columns=["kind"])
    (entry,), _ = listed(folder)
    assert (entry.captions, entry.labels, entry.split) == (("A",), ("kind=x y",), "test")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"file_name": "no.wav", "text": "a"}, "missing_file"),
        ({"file_name": "../a.wav", "text": "a"}, "outside_root"),
        ({"text": "a"}, "bad_field"),
        ({"file_name": ["a.wav"], "text": "a"}, "bad_field"),
        ({"file_name": "a.wav"}, "missing_caption"),
        ({"file_name": "a.wav", "text": " "}, "empty_caption"),
        ({"file_name": "a.wav", "text": 3}, "bad_field"),
        ("{", "bad_json"),
    ],
)
def test_bad_rows_are_rejected_between_good_ones(audio, row, reason):
    good = json.dumps({"file_name": "a.wav", "text": "good"})
    write_manifest(audio, [good, row, good], "metadata.jsonl")
    entries, (rejection,) = listed(AudioFolder(audio))
    assert [entry.where for entry in entries] == ["metadata.jsonl:1", "metadata.jsonl:3"]
    assert (rejection.where, rejection.reason) == ("metadata.jsonl:2", reason)


@pytest.mark.parametrize(
    ("header", "options", "words"),
    [
        ("file,caption", {}, "no column 'file_name'; its columns are file, caption"),
        ("file_name,caption", {"caption_columns": ["title"]}, "no column 'title'"),
    ],
)
def test_csv_without_the_needed_columns(audio, header, options, words):
    (audio / "metadata.csv").write_text(header + "\na.wav,x\n")
    with pytest.raises(CollectionError, match=words):
        listed(AudioFolder(audio, **options))


def test_folders_that_cannot_be_read(audio):
    with pytest.raises(CollectionError, match="holds no clips"):
        listed(AudioFolder(audio))
    with pytest.raises(CollectionError, match="is no folder"):
        AudioFolder(audio / "a.wav")
