import numpy as np

from slap_jax.data.hash_set import HashSet


def test_tells_what_is_new_like_a_python_set():
    generator = np.random.default_rng(0)
    hashes, seen = HashSet(), set()
    for size in generator.integers(0, 40, 200):
        values = generator.integers(0, 3_000, size).astype(np.uint64) * np.uint64(2**53)
        expected = []
        for value in values.tolist():
            expected.append(value not in seen)
            seen.add(value)
        assert hashes.add(values).tolist() == expected


def test_takes_eight_bytes_a_hash_in_few_runs():
    hashes = HashSet()
    for start in range(0, 100_000, 1_000):
        assert hashes.add(np.arange(start, start + 1_000, dtype=np.uint64)).all()
    runs = hashes._runs
    assert sum(run.nbytes for run in runs) == 8 * 100_000 and len(runs) <= 8
