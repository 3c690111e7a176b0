import dataclasses
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from slap_jax.data.index import hash_id, open_index
from slap_jax.data.preparation.dataset_writer import DUPLICATES, DatasetIdentity, FinishedShard, write_dataset
from slap_jax.data.preparation.shards import summarise_clip, write_shard
from slap_jax.data.records import open_split, read_dataset_info, shard_name, split_sizes
from tests.data.tiny_data import tiny_record

IDENTITY = DatasetIdentity("birds", "2.1.0", "Birds.", "https://birds.example", "CC0", "Bird, 2024")


def finished(folder, **splits):
    """Writes shards; each split is a list of shards, each a list of records."""
    shards = []
    for split, contents in splits.items():
        for number, records in enumerate(contents):
            name = shard_name("birds", split, number, len(contents))
            shard = FinishedShard(split, folder / name, folder / f"{name}.npz")
            folder.mkdir(exist_ok=True)
            clips = [(record, summarise_clip(record, record.waveform())) for record in records]
            write_shard(shard.file, shard.summary_file, clips, digest=name)
            shards.append(shard)
    return shards


def records(*indexes, **fields):
    return [dataclasses.replace(tiny_record(index, 0.1), **fields) for index in indexes]


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "data" / "birds" / "2.1.0"


def test_shards_become_splits_in_their_order(tmp_path, directory):
    shards = finished(tmp_path / "shards", train=[records(0, 1, 2), [], records(3)], test=[records(9)], val=[[], []])
    contents = write_dataset(directory, IDENTITY, shards)
    assert split_sizes(directory) == {"train": 4, "test": 1}  # a split without a clip does not exist
    assert [record.id for record in open_split(tmp_path / "data", "train")] == [f"clip-{index}" for index in range(4)]
    assert open_index(directory, "train").lookup_ids(np.array([hash_id("tiny", "clip-3")], np.uint64)).tolist() == [3]
    train = contents["splits"]["train"]
    assert (train["clips"], train["seconds"]) == (4, 0.4)
    assert train["duration_s"]["quantiles"]["50%"] == 0.1 and sum(train["loudness_dbfs"]["histogram"]["counts"]) == 4


def test_every_field_comes_back_as_written_also_through_tfds(tmp_path, directory):
    full = dataclasses.replace(
        tiny_record(3, 0.2),
        captions=("ein Käuzchen ruft", "鸟叫"),
        labels=("label=owl",),
        regions=((0.0, 0.125, "first"), (0.125, 0.25, "then")),
        caption_source="people",
        licence="CC0-1.0",
    )
    bare = dataclasses.replace(
        full, id="bare", captions=(), labels=(), regions=(), source="", caption_source="", licence=""
    )
    write_dataset(directory, IDENTITY, finished(tmp_path / "shards", train=[[full, bare]]))
    for written, read in zip([full, bare], open_split(directory, "train"), strict=True):
        assert dataclasses.replace(read, duration_s=written.duration_s) == written
        assert read.duration_s == pytest.approx(written.duration_s)
    builder = tfds.builder_from_directory(directory)
    first, second = builder.as_data_source("train")  # pyright: ignore[reportCallIssue]
    assert first["captions"] == [caption.encode() for caption in full.captions] and first["audio"] == full.audio
    assert [float(onset) for onset in first["regions"]["onset_s"]] == [0.0, 0.125]
    assert (second["captions"], second["regions"]["caption"], second["source"]) == ([], [], b"")
    assert (builder.info.full_name, builder.info.homepage) == ("birds/2.1.0", "https://birds.example")
    assert read_dataset_info(directory)["redistributionInfo"] == {"license": "CC0"}
    assert builder.info.redistribution_info.license == "CC0" and builder.info.citation == "Bird, 2024"


def test_the_digest_does_not_depend_on_the_sharding(tmp_path, directory):
    def digest(name, *shards):
        contents = write_dataset(tmp_path / name, IDENTITY, finished(tmp_path / f"{name}.shards", train=shards))
        return contents["splits"]["train"]["digest"]

    whole = digest("a", records(0, 1, 2))
    assert digest("b", records(0), records(1, 2)) == whole
    assert digest("c", records(0, 2, 1)) != whole and digest("d", records(0, 1, 2, licence="CC0")) != whole


def test_duplicates_are_listed_within_and_between_splits(tmp_path, directory):
    first, second = records(5, 6)
    copies = [dataclasses.replace(first, id=name, source="copies") for name in ("a", "b")]
    shards = finished(tmp_path / "shards", train=[[first, second], copies[:1]], test=[copies[1:]])
    contents = write_dataset(directory, IDENTITY, shards)
    assert contents["duplicates"] == {"groups": 1, "clips": 2, "groups_between_splits": 1, "dropped": 0}
    (group,) = [json.loads(line) for line in (directory / DUPLICATES).read_text().splitlines()]
    assert group["clips"] == [
        {"split": "train", "source": "tiny", "id": "clip-5"},
        {"split": "train", "source": "copies", "id": "a"},
        {"split": "test", "source": "copies", "id": "b"},
    ]
    assert not group["dropped"] and split_sizes(directory) == {"train": 3, "test": 1}


def test_dropping_duplicates_keeps_the_first_and_its_place(tmp_path, directory):
    first, second, third = records(5, 6, 7)
    copy = dataclasses.replace(second, id="copy")
    shards = finished(tmp_path / "shards", train=[[first, second], [copy, third]], test=[[dataclasses.replace(copy)]])
    contents = write_dataset(directory, IDENTITY, shards, drop_duplicates=True)
    assert contents["duplicates"]["dropped"] == 2 and split_sizes(directory) == {"train": 3}
    assert [record.id for record in open_split(directory, "train")] == ["clip-5", "clip-6", "clip-7"]
    index = open_index(directory, "train")
    assert index.lookup_audio(index.audio_hash).tolist() == [0, 1, 2]
    assert contents["splits"]["train"]["clips"] == 3
    # Shards of which a part was dropped are no use to a later preparation.
    assert [file.name for file in (directory / ".summaries").iterdir()] == [f"{shards[0].file.name}.npz"]
