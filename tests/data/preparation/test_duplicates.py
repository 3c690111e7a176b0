import numpy as np
import pytest

from slap_jax.data.preparation import duplicates
from slap_jax.data.preparation.duplicates import find_duplicates


@pytest.mark.parametrize("chunk", [1, 2, 5, 1 << 20])
def test_groups_are_those_of_a_dictionary(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(duplicates, "_HASHES_AT_A_TIME", chunk)
    hashes = np.random.default_rng(0).integers(0, 60, 100).astype(np.uint64) << np.uint64(57)
    expected: dict[int, list[int]] = {}
    for record, value in enumerate(hashes.tolist()):
        expected.setdefault(value, []).append(record)
    found = find_duplicates([hashes[:33], hashes[33:33], hashes[33:]], 100, tmp_path / "scratch")
    groups = [group for group in expected.values() if len(group) > 1]
    assert [group.tolist() for group in found.groups] == groups  # in the order of their first records
    assert found.later.tolist() == sorted(record for group in groups for record in group[1:])


def test_none_and_all(tmp_path):
    found = find_duplicates([np.arange(5, dtype=np.uint64)], 5, tmp_path / "none")
    assert found.groups == [] and found.later.tolist() == []
    found = find_duplicates([np.full(5, 7, np.uint64)], 5, tmp_path / "all")
    assert [group.tolist() for group in found.groups] == [[0, 1, 2, 3, 4]] and found.later.tolist() == [1, 2, 3, 4]
