"""Background read-ahead whose checkpointed state is that of the consumer, not that of the reader."""

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

Batch = TypeVar("Batch", covariant=True)
Result = TypeVar("Result")

_POLL_SECONDS = 0.1


class StatefulIterator(Protocol[Batch]):
    """An iterator whose position can be saved."""

    def __next__(self) -> Batch: ...

    def get_state(self) -> dict[str, Any]:
        """Returns the position, as JSON values."""
        ...


class Prefetch(Generic[Result]):
    """Calls `put(next(batches))` ahead of time in one thread and returns the results in order.

    An error of either call, the end of the data included, is raised by `next()` after the batches before it.

    Attributes:
        state: state of `batches` after the batch that `next()` returned last; batches that were only read ahead do not
            count, so a checkpoint that stores it skips nothing.
    """

    def __init__(self, batches: StatefulIterator[Any], put: Callable[[Any], Result], depth: int):
        """Starts the thread.

        Args:
            batches: used by the thread only, until `close()`.
            put: processes a batch in the thread, for example copies it to the devices.
            depth: number of results to hold ready, at least 1.
        """
        if depth < 1:
            raise ValueError(f"depth is {depth}; write a number above 0 for config.data.prefetch")
        self.state = batches.get_state()
        self._batches, self._put = batches, put
        self._ready: queue.Queue[tuple[Any, dict[str, Any] | None, BaseException | None]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> "Prefetch[Result]":
        return self

    def __next__(self) -> Result:
        """Returns the next result, or raises the error of reading or processing it, now and in every later call."""
        if self._failure is not None:
            raise self._failure
        if self._stop.is_set():
            raise StopIteration
        batch, state, failure = self._ready.get()
        if failure is not None or state is None:
            self._failure = failure or StopIteration()
            raise self._failure
        self.state = state
        return batch

    def close(self) -> None:
        """Stops the thread and waits for it; results that were read ahead are dropped. May be called twice."""
        self._stop.set()
        while self._thread.is_alive():
            # The thread may be blocked on the full queue.
            while not self._ready.empty():
                self._ready.get_nowait()
            self._thread.join(_POLL_SECONDS)

    def __enter__(self) -> "Prefetch[Result]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                batch = self._put(next(self._batches))
                item = (batch, self._batches.get_state(), None)
            except BaseException as failure:
                item = (None, None, failure)
            self._enqueue(item)
            if item[2] is not None:
                return

    def _enqueue(self, item: tuple[Any, dict[str, Any] | None, BaseException | None]) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue
