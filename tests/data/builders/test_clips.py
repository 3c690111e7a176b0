import dataclasses
import json

import pytest

from slap_jax.data.builders import clips
from slap_jax.data.records import SUMMARY, open_split
from tests.data.tiny_data import tiny_record


def stream(count, most=None, start=0):
    return clips.SplitStream(most or count, (tiny_record(start + index, 0.1) for index in range(count)))


@pytest.mark.parametrize(("count", "most", "shards"), [(7, 7, 2), (4, 4, 1), (5, 12, 3), (1, 9, 3)])
def test_shards_keep_the_order_even_if_fewer_records_come(tmp_path, monkeypatch, count, most, shards):
    monkeypatch.setattr(clips, "RECORDS_PER_SHARD", 4)
    directory = clips.write_splits({"train": stream(count, most), "test": stream(2, start=90)}, tmp_path)
    assert len(list(directory.glob("*-train.array_record-*"))) == shards
    assert [record.id for record in open_split(tmp_path, "train")] == [f"clip-{index}" for index in range(count)]
    assert [record.id for record in open_split(tmp_path, "test")] == ["clip-90", "clip-91"]


def test_every_field_comes_back_as_written(tmp_path):
    record = dataclasses.replace(
        tiny_record(3, 0.2),
        captions=("ein Käuzchen ruft", "鸟叫"),
        labels=(),
        regions=((0.0, 0.125, "first"), (0.125, 0.25, "then")),
        caption_source="people",
        licence="CC0-1.0",
    )
    bare = dataclasses.replace(record, id="bare", regions=(), source="", caption_source="", licence="")
    clips.write_splits({"train": clips.SplitStream(2, iter([record, bare]))}, tmp_path)
    for written, read in zip([record, bare], open_split(tmp_path, "train"), strict=True):
        assert dataclasses.replace(read, duration_s=written.duration_s) == written
        assert read.duration_s == pytest.approx(written.duration_s)


def test_summary_counts_what_was_written(tmp_path):
    directory = clips.write_splits({"train": stream(3)}, tmp_path)
    summary = json.loads((directory / SUMMARY).read_text())["splits"]["train"]
    assert (summary["clips"], summary["seconds"]) == (3, 0.3)


def test_nothing_is_printed(tmp_path, capfd):
    clips.write_splits({"train": stream(2)}, tmp_path)
    assert capfd.readouterr() == ("", "")
