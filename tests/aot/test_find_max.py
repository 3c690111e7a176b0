"""The search for the most rows: the right answer, and few compilations."""

import pytest

from slap_jax.aot.find_max import largest_fitting


def _search(size, capacity: int, start: int, told: bool = True, limit: int = 1_000) -> tuple[int, int]:
    tried = []

    def measure(n: int) -> tuple[bool, int | None]:
        assert 1 <= n <= limit
        tried.append(n)
        fits = size(n) <= capacity
        return fits, size(n) if told or fits else None

    answer = largest_fitting(measure, start, capacity, limit)
    assert len(set(tried)) == len(tried), "the same rows were compiled twice"
    return answer, len(tried)


@pytest.mark.parametrize("start", [1, 7, 40, 300])
@pytest.mark.parametrize("told", [True, False])
def test_finds_the_largest(start, told):
    answer, tries = _search(lambda n: 100 + 10 * n, 525, start, told)
    assert answer == 42
    assert tries <= (5 if told else 9)


def test_memory_need_not_be_a_line():
    answer, tries = _search(lambda n: 50 + 10 * n + n * n // 20, 900, 4)
    assert answer == max(n for n in range(1_000) if 50 + 10 * n + n * n // 20 <= 900)
    assert tries <= 8


def test_nothing_fits_or_all_does():
    assert _search(lambda n: 100 * n, 50, 8)[0] == 0
    assert _search(lambda n: n, 5_000, 8, limit=64)[0] == 64
