import threading
import time

import pytest

from slap_jax.data.batches.prefetch import Prefetch


class Numbers:
    """Counts up, with the number of items as its state, and fails or ends at `last`."""

    def __init__(self, last=None, failure=None):
        self.given, self.last, self.failure = 0, last, failure

    def __next__(self):
        if self.given == self.last:
            raise self.failure or StopIteration
        self.given += 1
        return self.given

    def get_state(self):
        return {"given": self.given}


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_order_placement_and_depth():
    numbers = Numbers()
    with Prefetch(numbers, lambda number: 10 * number, depth=3) as prefetch:
        assert [next(prefetch) for _ in range(20)] == [10 * number for number in range(1, 21)]
        wait_until(lambda: numbers.given >= 23)
        time.sleep(0.05)
        assert numbers.given <= 24  # three ready, one being placed


def test_state_is_that_of_the_last_returned_batch():
    numbers = Numbers()
    with Prefetch(numbers, lambda number: number, depth=5) as prefetch:
        assert prefetch.state == {"given": 0}
        for expected in range(1, 8):
            assert next(prefetch) == expected
            wait_until(lambda expected=expected: numbers.given > expected + 1)
            assert prefetch.state == {"given": expected}


def test_reading_happens_while_the_caller_works():
    numbers = Numbers()
    with Prefetch(numbers, lambda number: number, depth=2) as prefetch:
        wait_until(lambda: numbers.given >= 2)
        assert prefetch.state == {"given": 0}


@pytest.mark.parametrize("where", ["reading", "placing"])
def test_errors_are_raised_after_the_batches_before_them_and_persist(where):
    def put(number):
        if where == "placing" and number == 4:
            raise OSError("disk")
        return number

    numbers = Numbers(last=3, failure=OSError("disk")) if where == "reading" else Numbers()
    prefetch = Prefetch(numbers, put, depth=2)
    assert [next(prefetch) for _ in range(3)] == [1, 2, 3]
    for _ in range(2):
        with pytest.raises(OSError, match="disk"):
            next(prefetch)
    assert prefetch.state == {"given": 3}
    prefetch.close()


def test_the_end_of_the_data_ends_the_iteration():
    assert list(Prefetch(Numbers(last=4), lambda number: number, depth=2)) == [1, 2, 3, 4]


def test_close_stops_the_thread_even_before_the_first_batch():
    before = threading.active_count()
    prefetch = Prefetch(Numbers(), lambda number: number, depth=1)
    wait_until(lambda: threading.active_count() > before)
    prefetch.close()
    prefetch.close()
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(prefetch)


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match=r"config\.data\.prefetch"):
        Prefetch(Numbers(), lambda number: number, depth=0)
