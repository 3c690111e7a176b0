import shutil

import numpy as np
import pytest

from slap_jax.data.index import SplitIndex, hash_audio, hash_bytes, hash_id, open_index, write_index
from slap_jax.data.records import RecordsError, open_split


def test_the_index_matches_the_records(dataset):
    records, index = open_split(dataset, "train"), open_index(dataset, "train")
    assert len(index) == len(records) == 24
    assert index.samples.tolist() == [len(record.waveform()) for record in records]
    assert index.id_hash.tolist() == [hash_id(record.source, record.id) for record in records]
    assert index.audio_hash.tolist() == [hash_audio(record.waveform()) for record in records]
    assert isinstance(index.samples, np.memmap)


def test_look_ups(dataset):
    index, records = open_index(dataset, "train"), open_split(dataset, "train")
    hashes = np.array([hash_id("tiny", "clip-7"), 5, hash_id("tiny", "clip-0"), 2**64 - 1], np.uint64)
    assert index.lookup_ids(hashes).tolist() == [7, -1, 0, -1]
    assert index.lookup_audio(np.array([hash_audio(records[23].waveform())], np.uint64)).tolist() == [23]
    assert index.lookup_ids(np.empty(0, np.uint64)).tolist() == []


def test_joined_splits_are_numbered_like_their_records(dataset):
    index, records = open_index(dataset, "test+train"), open_split(dataset, "test+train")
    assert index.id_hash.tolist() == [hash_id(record.source, record.id) for record in records]
    hashes = np.array([hash_id("tiny", "clip-0"), hash_id("tiny", "clip-24")], np.uint64)
    assert index.lookup_ids(hashes).tolist() == [6, 0]


def test_equal_audio_refers_to_its_first_record(tmp_path):
    hashes = np.array([9, 4, 9, 4, 9], np.uint64)
    columns = {"samples": np.arange(5), "id_hash": np.arange(5, dtype=np.uint64), "audio_hash": hashes}
    write_index(tmp_path / "index" / "train", 5, [{name: column[:2] for name, column in columns.items()}] * 2)
    index = SplitIndex([tmp_path / "index" / "train"])
    assert index.lookup_audio(np.array([4, 9, 1], np.uint64)).tolist() == [1, 0, -1]


def test_the_index_is_sorted_and_every_hash_is_found(tmp_path):
    hashes = np.random.default_rng(1).integers(0, 2**64, 2_000, np.uint64, endpoint=False)
    repeated = hashes.copy()
    repeated[::3] = repeated[1]
    write_index(tmp_path / "train", 2_000, [{"samples": np.zeros(2_000), "id_hash": hashes, "audio_hash": repeated}])
    order = np.argsort(repeated, kind="stable")
    np.testing.assert_array_equal(np.load(tmp_path / "train" / "audio_hash_order.npy"), order)
    np.testing.assert_array_equal(np.load(tmp_path / "train" / "audio_hash_sorted.npy"), repeated[order])
    index = SplitIndex([tmp_path / "train"])
    np.testing.assert_array_equal(index.lookup_ids(hashes), np.arange(2_000))
    assert index.lookup_audio(repeated[:2]).tolist() == [0, 0] and not np.isin([7], hashes).any()
    assert index.lookup_ids(np.array([7], np.uint64)).tolist() == [-1]


def test_hashes_are_the_same_everywhere():
    assert hash_bytes(b"") == 0xB4B2797457A0A6E4
    assert hash_id("tiny", "clip-0") == 12_643_238_480_126_779_096
    assert hash_audio(np.array([1, -2], np.int16)) == hash_bytes(b"\x01\x00\xfe\xff")
    assert hash_audio(np.array([1, 9, -2, 9], np.int16)[::2]) == hash_audio(np.array([1, -2], np.int16))
    assert hash_id("a", "b/c") != hash_id("a/b", "c") != hash_id("a%2Fb", "c")


def test_errors_say_what_to_do(dataset, tmp_path):
    with pytest.raises(RecordsError, match="no split 'valid'"):
        open_index(dataset, "valid")
    with pytest.raises(RecordsError, match="does not exist"):
        open_index(tmp_path / "none", "train")
    old = shutil.copytree(dataset, tmp_path / "old")
    shutil.rmtree(next(old.rglob("index")))
    assert len(open_split(old, "train")) == 24
    with pytest.raises(RecordsError, match="no index of split 'test': an older version wrote it; prepare it again"):
        open_index(old, "test")


@pytest.mark.parametrize("content", [None, b"", b"not an array", b"\x93NUMPY\x01\x00"])
def test_a_damaged_index_is_named(dataset, tmp_path, content):
    directory = shutil.copytree(dataset, tmp_path / "copy") / "slap_clips" / "1.0.0"
    file = directory / "index" / "train" / "audio_hash_sorted.npy"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RecordsError, match=r"audio_hash_sorted\.npy is missing or damaged .*copy the data again"):
        open_index(directory, "train")
