"""Starts processes that signals to the whole job cannot hit, not even while they import their modules."""

import contextlib
import signal
import threading
from collections.abc import Iterator


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
