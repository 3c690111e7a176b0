"""Threads and processes: an ordered map with bounded read-ahead, and process starts that signals cannot hit."""

import collections
import contextlib
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Generator[Result, None, None]:
    """Maps a function over items in threads, reading a bounded number of items ahead.

    Closing the iterator cancels the calls that have not started and waits for those that have.

    Args:
        function: called in the threads.
        items: read in the calling thread, at most `ahead` items before their result is needed.
        threads: number of concurrent calls.
        ahead: largest number of results that are computed or in progress while the caller handles an earlier one.

    Yields:
        The results in the order of the items. An error of `function` or `items` is raised in its place in that order.
    """
    iterator = iter(items)
    pending: collections.deque[Future[Result]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            is_exhausted = False
            while pending or not is_exhausted:
                while not is_exhausted and len(pending) <= ahead:
                    try:
                        pending.append(pool.submit(function, next(iterator)))
                    except StopIteration:
                        is_exhausted = True
                    except Exception as error:  # raised after the results of the items before it
                        is_exhausted = True
                        pending.append(Future())
                        pending[-1].set_exception(error)
                if pending:
                    yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def held_signals(*signals: signal.Signals) -> Iterator[None]:
    """Holds signals back from the processes that start in the block, for good, and from this one until its end.

    A process inherits what is blocked when it starts. For this process blocking is not enough: the kernel may hand the
    signal to a thread that a library has started, and Python runs the handler in the main thread all the same, where a
    KeyboardInterrupt in the middle of a start leaves the new process with half of its input.

    Args:
        signals: which; those that arrived are raised again, once each, after the block.
    """
    arrived: set[int] = set()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.signal(number, lambda found, _: arrived.add(found)) for number in signals}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number in arrived:
            signal.raise_signal(number)
