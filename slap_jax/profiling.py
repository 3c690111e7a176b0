"""A profile of a few steps: `config.train.profile_start` and `profile_steps`, in `RUN_DIR/profile/process-N`."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax


class ProfileWindow:
    """Traces the steps of the window, of a resumed run those that are left of it."""

    def __init__(self, run_dir: str | Path, first: int, steps: int):
        """Does nothing yet.

        Args:
            run_dir: every process writes a directory of its own in it.
            first: number of the first step to trace, from 1.
            steps: how many; 0 for none.
        """
        self._directory = Path(run_dir) / "profile" / f"process-{jax.process_index()}"
        self._window = range(first, first + steps)
        self._running = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Marks the hand-over of a step in the trace, which it starts at the first one of the window."""
        if number in self._window and not self._running:
            logging.info("profiling steps %d to %d to %s", number, self._window[-1], self._directory)
            jax.profiler.start_trace(str(self._directory))
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def stop_after(self, number: int, results: Any) -> None:
        """Ends the trace after the last step of the window, once the devices have finished it.

        Args:
            number: of the step that was just handed over.
            results: arrays that it returns.
        """
        if self._running and number >= self._window[-1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends a trace that still runs."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            logging.info("wrote the profile to %s", self._directory)
