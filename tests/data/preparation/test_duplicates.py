import numpy as np
import pytest

from slap_jax.data.index import hash_audio
from slap_jax.data.preparation.duplicates import ExclusionError, HashSet, excluded_clips, find_duplicates
from slap_jax.data.records import RecordsError, open_split
from tests.data.tiny_data import tiny_dataset


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("exclusion") / "tiny", count=8, test_count=3)


def test_clips_of_the_split_are_known_by_id_and_by_audio(path):
    excluded = excluded_clips([f"{path}:test"])
    for split, expected in (("test", True), ("train", False)):
        for record in open_split(path, split):
            assert excluded.has_id(record.source, record.id) is expected
            assert not excluded.has_id("elsewhere", record.id)
            assert excluded.has_audio(hash_audio(record.waveform())) is expected


def test_several_splits_or_no_split_are_excluded(path):
    both = excluded_clips([f"{path}:test", f"{path}:train+test"])
    assert len(both.ids) == len(both.audio) == 11
    nothing = excluded_clips([])
    assert not nothing.has_id("tiny", "clip-0") and not nothing.has_audio(0)
    assert len({excluded.digest for excluded in (both, nothing, excluded_clips([f"{path}:test"]))}) == 3
    assert excluded_clips([f"{path}:train+test"]).digest == both.digest


def test_hashes_at_the_ends_are_found(path):
    excluded = excluded_clips([f"{path}:train"])
    for value in (excluded.audio[0], excluded.audio[-1]):
        assert excluded.has_audio(int(value))
    assert not excluded.has_audio(2**64 - 1) and not excluded.has_audio(0)
    np.testing.assert_array_equal(excluded.audio, np.sort(excluded.audio))


def test_a_missing_split_of_prepared_data_is_an_error(path):
    with pytest.raises(ExclusionError, match=r"--exclude 'data/esc50' is not PATH:SPLIT of prepared data"):
        excluded_clips(["data/esc50"])
    with pytest.raises(RecordsError, match="has no split 'dev'"):
        excluded_clips([f"{path}:dev"])


def test_groups_equal_those_of_a_dictionary():
    hashes = np.random.default_rng(0).integers(0, 60, 100).astype(np.uint64) << np.uint64(57)
    expected: dict[int, list[int]] = {}
    for record, value in enumerate(hashes.tolist()):
        expected.setdefault(value, []).append(record)
    result = find_duplicates([hashes[:33], hashes[33:33], hashes[33:]])
    groups = [group for group in expected.values() if len(group) > 1]
    assert [group.tolist() for group in result.groups] == groups  # in the order of their first records
    assert result.later.tolist() == sorted(record for group in groups for record in group[1:])


def test_no_or_only_duplicates():
    for hashes in ([], [np.arange(5, dtype=np.uint64)]):
        result = find_duplicates(hashes)
        assert result.groups == [] and result.later.tolist() == []
    result = find_duplicates([np.full(5, 7, np.uint64)])
    assert [group.tolist() for group in result.groups] == [[0, 1, 2, 3, 4]] and result.later.tolist() == [1, 2, 3, 4]


def test_hash_set_equals_a_python_set():
    generator = np.random.default_rng(0)
    hashes, seen = HashSet(), set()
    for size in generator.integers(0, 40, 200):
        values = generator.integers(0, 3_000, size).astype(np.uint64) * np.uint64(2**53)
        expected = []
        for value in values.tolist():
            expected.append(value not in seen)
            seen.add(value)
        assert hashes.add(values).tolist() == expected


def test_a_hash_set_takes_eight_bytes_per_hash():
    hashes = HashSet()
    for start in range(0, 10_000, 1_000):
        assert hashes.add(np.arange(start, start + 1_500, dtype=np.uint64)).sum() == (1_500 if start == 0 else 1_000)
    assert hashes._hashes.nbytes == 8 * 10_500
