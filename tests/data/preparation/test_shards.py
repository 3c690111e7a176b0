import dataclasses

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from slap_jax.data.clip_statistics import loudness
from slap_jax.data.collections.entries import Rejection
from slap_jax.data.index import hash_audio, hash_bytes, hash_id
from slap_jax.data.preparation.shards import ShardError, ShardSummary, filter_shard, summarise_clip, write_shard
from slap_jax.data.records import decode_record
from tests.data.tiny_data import tiny_record

REJECTION = Rejection("manifest.jsonl:2", "bad.wav", "empty_audio", "bad.wav is empty")


def clips(*indexes):
    records = [tiny_record(index, 0.1 + 0.01 * index) for index in indexes]
    return [(record, summarise_clip(record, record.waveform())) for record in records]


def stored(file):
    reader = ArrayRecordReader(str(file))
    records = [decode_record(data) for data in reader.read_all()] if reader.num_records() else []
    reader.close()
    return records


def test_records_in_order_and_a_summary_that_comes_back(tmp_path):
    first, second = clips(3, 1)
    summary = write_shard(tmp_path / "shard", tmp_path / "summary", [first, REJECTION, second], "digest")
    assert [record.id for record in stored(tmp_path / "shard")] == ["clip-3", "clip-1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard", "summary"]
    loaded = ShardSummary.load(tmp_path / "summary")
    assert (loaded.digest, loaded.rejections) == ("digest", (REJECTION,))
    assert loaded.names == (("tiny", "clip-3"), ("tiny", "clip-1"))
    assert loaded.samples.tolist() == [2_080, 1_760] and loaded.id_hash[0] == hash_id("tiny", "clip-3")
    assert loaded.audio_hash[1] == hash_audio(second[0].waveform())
    assert loaded.loudness_dbfs[0] == pytest.approx(loudness(first[0].waveform()), abs=1e-4)
    reader = ArrayRecordReader(str(tmp_path / "shard"))
    assert loaded.content_hash.tolist() == [hash_bytes(data) for data in reader.read_all()]
    for field in dataclasses.fields(summary):
        np.testing.assert_equal(getattr(loaded, field.name), getattr(summary, field.name))


def test_a_shard_may_be_empty(tmp_path):
    write_shard(tmp_path / "shard", tmp_path / "summary", [REJECTION])
    summary = ShardSummary.load(tmp_path / "summary")
    assert stored(tmp_path / "shard") == [] and len(summary.samples) == 0 and summary.rejections == (REJECTION,)


def test_an_interruption_leaves_no_file(tmp_path):
    def interrupted():
        yield from clips(0, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "shard", tmp_path / "summary", interrupted())
    assert not list(tmp_path.iterdir())


def test_the_same_clips_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_shard(tmp_path / name, tmp_path / f"{name}.summary", clips(*range(5)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_some_records_of_a_shard(tmp_path):
    write_shard(tmp_path / "shard", tmp_path / "summary", clips(*range(5)))
    filter_shard(tmp_path / "shard", tmp_path / "some", np.array([True, False, False, True, True]))
    write_shard(tmp_path / "expected", tmp_path / "summary", clips(0, 3, 4))
    assert (tmp_path / "some").read_bytes() == (tmp_path / "expected").read_bytes()


def test_a_folder_that_cannot_be_written_to_is_one_error(tmp_path):
    with pytest.raises(ShardError, match=r"none/shard could not be written \(.*No such file"):
        write_shard(tmp_path / "none" / "shard", tmp_path / "summary", clips(0))
