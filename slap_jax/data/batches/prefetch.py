"""Reading ahead in a background thread, without running ahead of the state that a checkpoint stores."""

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

Given = TypeVar("Given")
Taken = TypeVar("Taken", covariant=True)

_POLL_SECONDS = 0.1


class Stateful(Protocol[Taken]):
    """An iterator whose position can be stored."""

    def __next__(self) -> Taken: ...

    def get_state(self) -> dict[str, Any]:
        """Returns the position, as JSON values."""
        ...


class Prefetch(Generic[Given]):
    """Calls `put(next(batches))` ahead of time in one thread and gives the results in order.

    Attributes:
        state: of `batches` after the last batch that `next()` returned, not after the last one read.
    """

    def __init__(self, batches: Stateful[Any], put: Callable[[Any], Given], depth: int):
        """Starts the thread.

        Args:
            batches: read by the thread alone until `close()`.
            put: places a batch, for example on the devices.
            depth: batches to hold ready, at least 1.
        """
        if depth < 1:
            raise ValueError(f"depth is {depth}; at least one batch is held ready (config.data.prefetch)")
        self.state = batches.get_state()
        self._batches, self._put = batches, put
        self._ready: queue.Queue[tuple[Any, dict[str, Any] | None, BaseException | None]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> "Prefetch[Given]":
        return self

    def __next__(self) -> Given:
        """Returns the next placed batch; raises what reading or placing it raised."""
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
        """Stops the thread and waits for it; what it read ahead is dropped. May be called twice."""
        self._stop.set()
        while self._thread.is_alive():
            # The thread may be waiting for a free place.
            while not self._ready.empty():
                self._ready.get_nowait()
            self._thread.join(_POLL_SECONDS)

    def __enter__(self) -> "Prefetch[Given]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                batch = self._put(next(self._batches))
                item = (batch, self._batches.get_state(), None)
            except BaseException as failure:
                # Everything surfaces in next(), the end of the data included.
                item = (None, None, failure)
            self._hand_over(item)
            if item[2] is not None:
                return

    def _hand_over(self, item: tuple[Any, dict[str, Any] | None, BaseException | None]) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue
