"""A bounded queue in front of the model: one job runs, a few wait, and the rest are refused at once."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class BusyError(Exception):
    """The queue is full."""


class SlowError(Exception):
    """A job did not end in time."""


class Jobs:
    """Runs jobs one after the other in a thread, because one job keeps the device or all cores busy.

    Attributes:
        limit: number of jobs that may run or wait.
        seconds: time from the submission of a job to its result.
    """

    def __init__(self, limit: int, seconds: float):
        self.limit, self.seconds = limit, seconds
        self._accepted = 0
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def run(self, job: Callable[[], Result]) -> Result:
        """Returns the result of a job.

        Raises:
            BusyError: `limit` jobs run or wait already.
            SlowError: there is no result after `seconds`. A waiting job is then dropped. A running one cannot be
                stopped, and keeps its place in the queue until it ends.
        """
        with self._lock:
            if self._accepted >= self.limit:
                raise BusyError(f"{self.limit} requests are waiting already")
            self._accepted += 1
        try:
            future = self._executor.submit(job)
        except RuntimeError:  # the interpreter is ending
            self._release(None)
            raise
        future.add_done_callback(self._release)
        try:
            async with asyncio.timeout(self.seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if future.done() and not future.cancelled():  # the job itself raised it
                raise
            raise SlowError(f"no result after {self.seconds:g} s") from None

    def _release(self, _: Future | None) -> None:
        with self._lock:
            self._accepted -= 1
