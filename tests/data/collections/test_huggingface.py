import json
import os
import socket
import sys
import tracemalloc
from typing import Any

import datasets
import pyarrow as pa
import pytest

from slap_jax.data.collections.entries import AudioFile, TableCell
from slap_jax.data.collections.fields import CollectionError
from slap_jax.data.collections.huggingface import HuggingFaceTables
from slap_jax.data.collections.read_audio import read_audio
from tests.data.listing import listed
from tests.data.tiny_data import write_tone
from tests.data.tiny_tables import (
    AUDIO_FEATURE,
    TEXT_FEATURE,
    cells,
    clips,
    dataset_of,
    parquet,
    table_of,
    write_arrow,
    write_parquet,
)

# Layouts -------------------------------------------------------------------------------------------------------------


def test_parquet_shards(tmp_path):
    write_parquet(tmp_path / "data/train-00000-of-00002.parquet", clips(3))
    write_parquet(tmp_path / "data/train-00001-of-00002.parquet", clips(2, start=3))
    write_parquet(tmp_path / "data/test.clean-00000-of-00001.parquet", clips(1))
    write_parquet(tmp_path / "default/validation/0000.parquet", clips(1))
    write_parquet(tmp_path / "other/my-test-part.parquet", clips(1))
    write_parquet(tmp_path / "other/rest.parquet", clips(1))
    entries, rejections = listed(HuggingFaceTables(tmp_path, name="hub"))
    assert not rejections
    assert [(entry.id, entry.split) for entry in entries] == [
        ("data/test.clean-00000-of-00001/0", "test_clean"),
        ("data/train-00000-of-00002/0", "train"),
        ("data/train-00000-of-00002/1", "train"),
        ("data/train-00000-of-00002/2", "train"),
        ("data/train-00001-of-00002/0", "train"),
        ("data/train-00001-of-00002/1", "train"),
        ("default/validation/0000/0", "validation"),
        ("other/my-test-part/0", "test"),
        ("other/rest/0", "train"),
    ]
    assert [read_audio(entry.audio) for entry in entries[1:6]] == [b"0", b"1", b"2", b"3", b"4"]
    assert entries[3].captions == ("clip 2",) and entries[3].source == "hub"
    assert entries[3].where == "data/train-00000-of-00002.parquet, row 2"


def test_tables_that_are_not_there_are_mentioned(tmp_path, caplog):
    for number in (0, 2):
        write_parquet(tmp_path / f"data/train-{number:05d}-of-00004.parquet", clips(1))
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", clips(1))
    assert len(listed(HuggingFaceTables(tmp_path))[0]) == 3
    (record,) = caplog.records
    assert "has 2 of the 4 tables data/train-..." in record.getMessage()
    caplog.clear()
    listed(HuggingFaceTables(tmp_path / "data/train-00002-of-00004.parquet"))  # chosen on purpose
    assert not caplog.records


def test_one_table(tmp_path):
    write_parquet(tmp_path / "set" / "test.parquet", clips(2))
    entries, _ = listed(HuggingFaceTables(tmp_path / "set" / "test.parquet"))
    source = f"{tmp_path.name}/set"
    assert [(entry.id, entry.split, entry.source) for entry in entries] == [
        ("test/0", "test", source),
        ("test/1", "test", source),
    ]


def test_saved_to_disk(tmp_path):
    splits: Any = {"train": dataset_of(clips(5)), "dev.other": dataset_of(clips(1))}
    datasets.DatasetDict(splits).save_to_disk(tmp_path, num_shards={"train": 2, "dev.other": 1})
    write_arrow(tmp_path / "train" / "cache-0123.arrow", clips(9))  # a cache of map(), not part of the dataset
    entries, rejections = listed(HuggingFaceTables(tmp_path))
    assert [(entry.id, entry.split) for entry in entries] == [
        ("train/data-00000-of-00002/0", "train"),
        ("train/data-00000-of-00002/1", "train"),
        ("train/data-00000-of-00002/2", "train"),
        ("train/data-00001-of-00002/0", "train"),
        ("train/data-00001-of-00002/1", "train"),
        ("dev.other/data-00000-of-00001/0", "dev_other"),
    ]
    assert [read_audio(entry.audio) for entry in reversed(entries)] == [b"0", b"4", b"3", b"2", b"1", b"0"]
    assert not rejections


@pytest.mark.parametrize(("folder", "stated", "split"), [("x", "test", "test"), ("dev", "", "dev"), ("x", "", "train")])
def test_one_split_saved_to_disk(tmp_path, folder, stated, split):
    dataset_of(clips(1), stated).save_to_disk(tmp_path / folder)
    (entry,), _ = listed(HuggingFaceTables(tmp_path / folder))
    assert (entry.id, entry.split, entry.source) == ("data-00000-of-00001/0", split, f"{tmp_path.name}/{folder}")


def test_a_chosen_split_applies_to_all_clips(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00001.parquet", clips(1))
    assert listed(HuggingFaceTables(tmp_path, split="mine"))[0][0].split == "mine"


# Columns -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "captions"),
    [
        ({"caption": ["a"], "text": ["unused"]}, ("a",)),
        ({"captions": [["a", "b", ""]]}, ("a", "b")),
        ({"caption_10": ["j"], "caption_2": ["b"], "caption_1": ["a"]}, ("a", "b", "j")),
        ({"Text": ["a"], "raw_text": ["unused"]}, ("a",)),
        ({"raw_text": [["a", None]]}, ("a",)),
        ({"sentence": ["a"], "n": [3]}, ("a",)),
        ({"transcription": ["a"]}, ("a",)),
    ],
)
def test_caption_columns_are_known_by_name(tmp_path, columns, captions):
    (entry,), rejections = listed(parquet(tmp_path, {"audio": cells(b"x"), **columns}))
    assert entry.captions == captions and not rejections


def test_class_numbers_become_their_names(tmp_path):
    classes = {"names": ["sea_waves", "dog"], "_type": "ClassLabel"}
    features = {
        "audio": AUDIO_FEATURE,
        "label": classes,
        "genre": classes,
        "tags": {"feature": classes, "_type": "List"},
        "old": [classes],
        "caption": TEXT_FEATURE,
    }
    columns = {"label": [0, -1], "genre": [1, None], "tags": [[1, 0], []], "old": [[1], None], "caption": ["a", "b"]}
    entries, rejections = listed(parquet(tmp_path, {"audio": cells(b"x", b"y"), **columns}, features=features))
    assert entries[0].labels == ("label=sea waves", "genre=dog", "dog", "sea waves", "old=dog")
    assert entries[1].labels == () and not rejections


def test_texts_and_numbers_without_names(tmp_path):
    columns = {"audio": cells(b"x"), "label": ["dog_bark"], "tags": [["a", "b"]], "speaker": [7]}
    write_parquet(tmp_path / "a.parquet", table_of(columns))
    assert listed(HuggingFaceTables(tmp_path))[0][0].labels == ("label=dog bark", "a", "b")
    assert listed(HuggingFaceTables(tmp_path, label_columns=["speaker"]))[0][0].labels == ("speaker=7",)


def test_columns_that_the_user_names(tmp_path):
    audio = {"one": cells(b"1"), "two": cells(b"2")}
    types = dict.fromkeys(audio, table_of({"audio": cells()}).schema.field("audio").type)
    columns = {**audio, "title": ["a"], "text": ["b"], "key": ["k-1"], "license": ["CC0"], "duration_s": [0.5]}
    write_parquet(tmp_path / "a.parquet", table_of(columns, types))
    with pytest.raises(CollectionError, match="several columns of audio, one, two; name one with audio_column"):
        listed(HuggingFaceTables(tmp_path))
    options = {"audio_column": "two", "caption_columns": ["title", "text"], "id_column": "key"}
    (entry,), _ = listed(HuggingFaceTables(tmp_path, **options))
    assert (entry.id, entry.captions, entry.licence, entry.duration_s) == ("k-1", ("a", "b"), "CC0", 0.5)
    assert entry.audio == TableCell(tmp_path / "a.parquet", "two", 0) and read_audio(entry.audio) == b"2"


def test_a_column_of_bytes(tmp_path):
    (entry,), _ = listed(parquet(tmp_path, {"flac": [b"fLaC"], "text": ["a"], "thumbnail": [b"png"]}))
    assert read_audio(entry.audio) == b"fLaC"


def test_columns_of_types_that_datasets_does_not_know_are_ignored(tmp_path):
    columns = {"audio": cells(b"x"), "counts": [[("a", 1)]], "text": ["a"]}
    types = {"counts": pa.map_(pa.string(), pa.int64())}
    (entry,), rejections = listed(parquet(tmp_path, columns, types))
    assert entry.captions == ("a",) and not rejections


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"sound": [1.0], "caption": ["a"]}, {}, r"no column of audio; its columns are sound \(double\).*audio_column"),
        (
            {"audio": cells(b"x"), "n": [1]},
            {},
            r"captions or labels; its columns are audio .*, n \(int64\): .*caption_col",
        ),
        ({"audio": cells(b"x"), "n": [1]}, {"caption_columns": ["title"]}, "no column 'title', which caption_columns"),
        ({"audio": cells(b"x"), "text": ["a"]}, {"label_columns": ["kind"]}, "no column 'kind', which label_columns"),
        ({"audio": cells(b"x"), "text": ["a"]}, {"audio_column": "wave"}, "no column 'wave', which audio_column"),
        ({"audio": cells(b"x"), "text": ["a"]}, {"id_column": "key"}, "no column 'key', which id_column"),
        ({"wave": [[0.1, 0.2]], "text": ["a"]}, {"audio_column": "wave"}, "samples, not encoded audio.*cast_column"),
    ],
)
def test_unrecognisable_columns_are_an_error(tmp_path, columns, options, words):
    write_parquet(tmp_path / "a.parquet", table_of(columns))
    with pytest.raises(CollectionError, match=words) as caught:
        listed(HuggingFaceTables(tmp_path, **options))
    assert "a.parquet" in str(caught.value)


# Audio by path -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", [True, False])
def test_rows_without_bytes_name_a_file(tmp_path, statistics):
    write_tone(tmp_path / "audio" / "a.wav")
    audio = [
        {"bytes": b"x", "path": "unused.wav"},
        {"bytes": None, "path": "audio/a.wav"},
        {"bytes": None, "path": "audio/b.wav"},
        {"bytes": None, "path": "../a.wav"},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"", "path": None},
    ]
    table = parquet(tmp_path, {"audio": audio, "text": list("abcdefg")}, write_statistics=statistics)
    entries, rejections = listed(table)
    assert [(entry.id, entry.captions) for entry in entries] == [
        ("data/0", ("a",)),
        ("audio/a.wav", ("b",)),
        ("data/6", ("g",)),
    ]
    assert [type(entry.audio) for entry in entries] == [TableCell, AudioFile, TableCell]
    assert read_audio(entries[1].audio) == tmp_path / "audio" / "a.wav"
    assert [(rejection.where, rejection.reason) for rejection in rejections] == [
        ("data.parquet, row 2", "missing_file"),
        ("data.parquet, row 3", "outside_root"),
        ("data.parquet, row 4", "missing_audio"),
        ("data.parquet, row 5", "missing_audio"),
    ]


def test_columns_of_paths(tmp_path):
    write_tone(tmp_path / "set" / "train" / "a.wav")
    write_parquet(tmp_path / "set/train/metadata.parquet", table_of({"file_name": ["a.wav"], "text": ["x"]}))
    write_parquet(tmp_path / "paths.parquet", table_of({"path": ["train/a.wav"], "text": ["x"]}))
    expected = AudioFile(tmp_path / "set/train/a.wav")
    (in_folder,), _ = listed(HuggingFaceTables(tmp_path / "set"))
    (elsewhere,), _ = listed(HuggingFaceTables(tmp_path / "paths.parquet", tmp_path / "set"))
    assert (in_folder.audio, in_folder.split, elsewhere.audio) == (expected, "train", expected)


# Rows of one clip ----------------------------------------------------------------------------------------------------


def test_adjacent_rows_of_one_id_are_its_captions(tmp_path):
    ids = ["x", "x", "y", "z", "z", "z"]
    audio = cells(*(name.encode() for name in ids))
    for cell, name in zip(audio, ids, strict=True):
        cell["path"] = f"{name}.wav"
    columns = {"audio": audio, "youtube_id": ids, "caption": ["a", "b", "c", "d", "d", "e"]}
    write_parquet(tmp_path / "a.parquet", table_of(columns), rows_per_group=2)
    entries, rejections = listed(HuggingFaceTables(tmp_path, id_column="youtube_id"))
    assert not rejections
    assert [(entry.id, entry.captions, read_audio(entry.audio)) for entry in entries] == [
        ("x", ("a", "b"), b"x"),
        ("y", ("c",), b"y"),
        ("z", ("d", "e"), b"z"),
    ]


def test_adjacent_rows_of_one_path_are_its_captions_and_others_share_its_id(tmp_path):
    for name in "ab":
        write_tone(tmp_path / f"{name}.wav")
    columns = {"file_name": ["a.wav", "a.wav", "b.wav", "a.wav"], "text": ["one", "two", "three", "four"]}
    write_parquet(tmp_path / "metadata.parquet", table_of(columns))
    entries, rejections = listed(HuggingFaceTables(tmp_path))
    assert not rejections  # `slap prepare` rejects the second a.wav as a repeated id
    assert [(entry.id, entry.captions) for entry in entries] == [
        ("a.wav", ("one", "two")),
        ("b.wav", ("three",)),
        ("a.wav", ("four",)),
    ]


def test_contradicting_rows_of_one_id_are_one_rejection(tmp_path):
    audio = [{"bytes": b"x", "path": "x.wav"}] * 3
    columns = {"audio": audio, "key": ["x"] * 3, "caption": ["a", "b", "c"], "license": ["CC0", "MIT", None]}
    write_parquet(tmp_path / "a.parquet", table_of(columns))
    entries, (rejection,) = listed(HuggingFaceTables(tmp_path, id_column="key"))
    assert not entries and (rejection.reason, rejection.id, rejection.clips) == ("contradicting_rows", "x", 1)
    assert "license is 'CC0' in row 0 and 'MIT' in row 1" in rejection.detail


# Folders -------------------------------------------------------------------------------------------------------------


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(CollectionError, match="nowhere is missing"):
        HuggingFaceTables(tmp_path / "nowhere")
    with pytest.raises(CollectionError, match="holds no clips"):
        listed(HuggingFaceTables(tmp_path))
    dataset_of(clips(1)).save_to_disk(tmp_path / "chosen")
    state = tmp_path / "chosen" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "_indices_data_files": [{"filename": "i.arrow"}]}))
    with pytest.raises(CollectionError, match="flatten_indices"):  # older versions of datasets wrote such folders
        listed(HuggingFaceTables(tmp_path / "chosen"))
    (tmp_path / "chosen" / "state.json").write_text("{}")
    with pytest.raises(CollectionError, match=r"state\.json has no list '_data_files'"):
        listed(HuggingFaceTables(tmp_path / "chosen"))
    (tmp_path / "dataset_dict.json").write_text("{")
    with pytest.raises(CollectionError, match=r"dataset_dict\.json cannot be read"):
        listed(HuggingFaceTables(tmp_path))


def test_listing_reads_no_audio(tmp_path):
    audio = cells(*(os.urandom(1_000_000) for _ in range(12)))
    write_parquet(tmp_path / "a.parquet", table_of({"audio": audio, "text": ["x"] * 12}), rows_per_group=4)
    del audio
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    peak = 0
    for _ in HuggingFaceTables(tmp_path).entries():
        peak = max(peak, pa.total_allocated_bytes() - before)
    _, python_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000 and python_peak < 500_000


# The package datasets ------------------------------------------------------------------------------------------------


def test_without_datasets_one_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CollectionError, match=r"pip install 'slap-jax\[huggingface\]'$"):
        HuggingFaceTables(write_parquet(tmp_path / "a.parquet", clips(1)))


def test_audio_is_read_without_datasets(tmp_path, monkeypatch):
    (entry,), _ = listed(HuggingFaceTables(write_parquet(tmp_path / "a.parquet", clips(1))))
    monkeypatch.setitem(sys.modules, "datasets", None)  # whose import would cost each worker seconds
    assert read_audio(entry.audio) == b"0"


def test_nothing_connects_to_a_network(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection is opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    features = {"audio": AUDIO_FEATURE, "caption": TEXT_FEATURE}
    audio = [{"bytes": b"x", "path": "https://example.org/a.wav"}, {"bytes": None, "path": "hf://datasets/a/b/a.wav"}]
    table = table_of({"audio": audio, "caption": ["a", "b"]}, features=features)
    (entry,), (rejection,) = listed(HuggingFaceTables(write_parquet(tmp_path / "a.parquet", table)))
    assert (read_audio(entry.audio), rejection.reason) == (b"x", "missing_file")


@pytest.mark.parametrize("name", ["a[1].parquet", "x::y.parquet", "b*.parquet", "{0..1}.parquet"])
def test_file_names_are_not_patterns(tmp_path, name):
    (entry,), _ = listed(HuggingFaceTables(write_parquet(tmp_path / name, clips(1))))
    assert read_audio(entry.audio) == b"0"
