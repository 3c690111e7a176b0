"""A damaged table or row costs its own clips only, and every lost clip is counted."""

import json
import os
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slap_jax.data.collections.fields import CollectionError
from slap_jax.data.collections.huggingface import HuggingFaceTables
from slap_jax.data.collections.read_audio import read_audio
from tests.data.listing import listed, reasons
from tests.data.tiny_tables import (
    AUDIO_FEATURE,
    cells,
    clips,
    dataset_of,
    parquet,
    write_arrow,
    write_parquet,
)


def test_bad_rows_are_rejected_between_good_ones(tmp_path):
    captions = [["good"], [" "], None, ["better"]]
    columns = {"audio": cells(*(b"%d" % n for n in range(4))), "captions": captions}
    entries, rejections = listed(parquet(tmp_path, columns))
    assert [read_audio(entry.audio) for entry in entries] == [b"0", b"3"]
    assert [(rejection.id, rejection.reason) for rejection in rejections] == [
        ("data/1", "empty_caption"),
        ("data/2", "empty_caption"),
    ]


def test_text_that_is_not_utf8_is_one_rejection(tmp_path):
    texts = pa.array([b"good", b"caf\xe9", b"better"]).view(pa.string())
    (first, last), (rejection,) = listed(parquet(tmp_path, {"audio": cells(b"x", b"y", b"z"), "text": texts}))
    assert (first.captions, last.captions) == (("good",), ("better",))
    assert (rejection.id, rejection.reason) == (
        "data/1",
        "bad_text",
    ) and "text is not UTF-8: byte 0xe9 at 3" in rejection.detail


def test_a_class_number_without_a_name(tmp_path):
    features = {"audio": AUDIO_FEATURE, "label": {"names": ["dog"], "_type": "ClassLabel"}}
    (entry,), (rejection,) = listed(parquet(tmp_path, {"audio": cells(b"x", b"y"), "label": [0, 1]}, features=features))
    assert entry.labels == ("label=dog",)
    assert (rejection.id, rejection.reason) == ("data/1", "bad_field") and "its 1 classes" in rejection.detail


def test_damaged_tables_are_one_rejection_each(tmp_path):
    for name in ("a.parquet", "b.parquet"):
        write_parquet(tmp_path / name, clips(4))
    os.truncate(tmp_path / "a.parquet", 300)
    (tmp_path / "c.parquet").write_bytes(b"")
    write_arrow(tmp_path / "d.arrow", clips(40), rows_per_batch=4)
    os.truncate(tmp_path / "d.arrow", (tmp_path / "d.arrow").stat().st_size // 2)
    entries, _ = listed(HuggingFaceTables(tmp_path))
    names = [entry.id.split("/")[0] for entry in entries]
    assert names.count("b") == 4 and 0 < names.count("d") < 40 and names.count("d") % 4 == 0
    assert all(read_audio(entry.audio) == entry.id.split("/")[1].encode() for entry in entries)
    damaged = ("a.parquet", "c.parquet", "d.arrow")
    assert reasons(HuggingFaceTables(tmp_path)) == dict.fromkeys(damaged, "bad_table")


def lost(collection):
    """Returns where -> number of clips of the rejections."""
    return {rejection.where: rejection.clips for rejection in listed(collection)[1]}


def damage_column(path, group, column):
    """Overwrites the values of a column of a row group."""
    meta = pq.read_metadata(path).row_group(group).column(column)
    data = bytearray(path.read_bytes())
    start = meta.dictionary_page_offset or meta.data_page_offset
    data[start : start + meta.total_compressed_size] = b"\xff" * meta.total_compressed_size
    path.write_bytes(data)


def test_a_damaged_row_group_loses_its_rows_only(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", clips(10), rows_per_group=4)
    damage_column(path, 1, column=2)
    entries, (rejection,) = listed(HuggingFaceTables(path))
    assert [entry.id for entry in entries] == [f"a/{row}" for row in (0, 1, 2, 3, 8, 9)]
    assert [read_audio(entry.audio) for entry in entries] == [b"0", b"1", b"2", b"3", b"8", b"9"]
    assert (rejection.where, rejection.reason, rejection.clips) == ("a.parquet", "bad_table", 4)
    assert "6 clips of it were read, it should hold 10" in rejection.detail


def test_a_table_without_a_footer_counts_what_the_split_lacks(tmp_path):
    for number, rows in enumerate((5, 3, 4, 2)):
        write_parquet(tmp_path / f"train-{number:05d}-of-00004.parquet", clips(rows))
    write_parquet(tmp_path / "test-00000-of-00001.parquet", clips(8))
    for number in (1, 3):
        os.truncate(tmp_path / f"train-{number:05d}-of-00004.parquet", 100)
    assert lost(HuggingFaceTables(tmp_path)) == dict.fromkeys(
        ["train-00001-of-00004.parquet", "train-00003-of-00004.parquet"], 8
    )
    sizes = "".join(
        f"  - name: {name}\n    num_bytes: 1\n    num_examples: {rows}\n" for name, rows in (("train", 14), ("test", 8))
    )
    (tmp_path / "README.md").write_text(f"---\ndataset_info:\n  splits:\n{sizes}---\n")
    assert lost(HuggingFaceTables(tmp_path)) == {"train-00001-of-00004.parquet": 3, "train-00003-of-00004.parquet": 2}


def test_a_truncated_stream_of_save_to_disk_counts_what_the_split_lacks(tmp_path):
    splits: Any = {"train": dataset_of(clips(9)), "test": dataset_of(clips(2))}
    datasets.DatasetDict(splits).save_to_disk(tmp_path, num_shards={"train": 2, "test": 1})
    info = tmp_path / "train" / "dataset_info.json"
    sizes = {"train": {"name": "train", "num_examples": 9, "dataset_name": None}}
    info.write_text(json.dumps({**json.loads(info.read_text()), "splits": sizes}))
    (tmp_path / "train/data-00001-of-00002.arrow").write_bytes(b"")
    assert lost(HuggingFaceTables(tmp_path)) == {"train/data-00001-of-00002.arrow": 4}


def test_a_damaged_table_of_unknown_size_ends_the_listing(tmp_path):
    os.truncate(write_parquet(tmp_path / "a.parquet", clips(4)), 300)
    with pytest.raises(CollectionError, match=r"a\.parquet is damaged .* 0 clips .* how many are missing is unknown"):
        listed(HuggingFaceTables(tmp_path))


def test_a_table_whose_name_is_not_utf8_counts_its_rows(tmp_path):
    write_parquet(tmp_path / "b.parquet", clips(2))
    os.rename(write_parquet(tmp_path / "a.parquet", clips(5)), os.fsencode(tmp_path / "caf\udce9.parquet"))
    entries, (rejection,) = listed(HuggingFaceTables(tmp_path))
    assert len(entries) == 2 and (rejection.reason, rejection.clips) == ("bad_name", 5)


def test_git_lfs_pointers_are_refused(tmp_path):
    write_parquet(tmp_path / "a.parquet", clips(4))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 7\n"
    (tmp_path / "b.parquet").write_bytes(pointer)
    with pytest.raises(
        CollectionError, match=r"b\.parquet is a Git LFS pointer, not the file of 7 bytes; .*git lfs pull"
    ):
        listed(HuggingFaceTables(tmp_path))
