"""Threads and processes: an ordered map with bounded read-ahead, and processes that start with signals blocked."""

import collections
import contextlib
import signal
import sys
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
def block_signals(*signals: signal.Signals) -> Iterator[None]:
    """Starts processes that never see these signals, and delays them in this process until the block ends.

    A process inherits its parent's signal mask, so the processes that start in the block keep the signals blocked. In
    this process a mask is not enough: the kernel may deliver the signal to a thread of some library, and Python still
    runs the handler in the main thread. A KeyboardInterrupt in the middle of a start leaves the new process with half
    of its input.

    Args:
        *signals: signals to block; those that arrived in the meantime are raised again, once each, after the block.
    """
    arrived: set[int] = set()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.signal(number, lambda raised, _: arrived.add(raised)) for number in signals}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in arrived:
            signal.raise_signal(number)


@contextlib.contextmanager
def hide_main_module() -> Iterator[None]:
    """Starts processes that do not import this process's main module.

    Python's "spawn" imports it in every child, so that objects defined there can be unpickled. A child that unpickles
    none would import a whole training script for nothing.
    """
    main = sys.modules["__main__"]
    hidden = {name: vars(main).pop(name) for name in ("__spec__", "__file__") if name in vars(main)}
    main.__spec__ = None  # Python reads this attribute
    try:
        yield
    finally:
        vars(main).update(hidden)
