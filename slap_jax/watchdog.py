"""Writes down where a process is stuck: the stacks of all its threads, when one phase of training lasts too long."""

import faulthandler
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import jax

from slap_jax.phases import PHASES, Phases


class Watchdog:
    """A thread that looks at the present phase; training passes through several at every step.

    It only writes: what is stuck may come back, and a long compilation or evaluation is no fault.
    """

    def __init__(
        self, run_dir: str | Path, seconds: float, phases: Phases, clock: Callable[[], float] = time.monotonic
    ):
        """Starts the thread.

        Args:
            run_dir: gets `stacks/process-N-TIME.txt`.
            seconds: in one phase before the stacks are written; again after twice, four times ... as long; 0: never.
            phases: of the training script.
            clock: that of `phases`.
        """
        self._directory = Path(run_dir) / "stacks"
        self._seconds, self._phases, self._clock = seconds, phases, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        if seconds > 0:
            self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        seen, patience = self._phases.present, self._seconds
        while not self._stop.wait(self._seconds / 20):
            if self._phases.present != seen:
                seen, patience = self._phases.present, self._seconds
            name, began = seen
            lasted = self._clock() - began
            if lasted >= patience and self._phases.present == seen:
                patience = 2 * lasted
                try:
                    self._write(name, lasted)
                except OSError as error:  # a file system that is stuck is a reason to write, and to go on without
                    logging.warning("the watchdog cannot write to %s: %s", self._directory, error)

    def _write(self, phase: str, lasted: float) -> None:
        process = jax.process_index()
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"process-{process}-{time.strftime('%Y%m%d-%H%M%S')}.txt"
        summary = f"process {process} on host {socket.gethostname()} has been {PHASES[phase]} for {lasted:.0f} s"
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"{summary} (config.train.watchdog_seconds is {self._seconds:g})\n\n")
            file.flush()  # the stacks go to the file descriptor directly
            faulthandler.dump_traceback(file, all_threads=True)
        logging.warning("%s; it goes on waiting. Stacks of all threads: %s", summary, path)
