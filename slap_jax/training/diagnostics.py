"""Diagnostics of a running process: the stacks of a hang, a profile of a few steps, and the memory of the devices."""

import contextlib
import faulthandler
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import jax

from slap_jax.training.timing import PHASES, StepTimer


class Watchdog:
    """A thread that writes the stacks of all threads when one phase of training lasts too long.

    It never ends the process: a stuck file system may recover, and a long compilation or evaluation is not a fault.
    """

    def __init__(
        self, run_dir: str | Path, seconds: float, timer: StepTimer, clock: Callable[[], float] = time.monotonic
    ):
        """Starts the thread.

        Args:
            run_dir: receives `stacks/process-N-TIME.txt`.
            seconds: time in one phase until the stacks are written; written again after 2, 4, 8 ... times as long; 0 is
                never.
            timer: timer of the training script.
            clock: the clock of `timer`.
        """
        self._directory = Path(run_dir) / "stacks"
        self._seconds, self._timer, self._clock = seconds, timer, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        if seconds > 0:
            self._thread.start()

    def close(self) -> None:
        """Stops the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        seen, patience = self._timer.current, self._seconds
        while not self._stop.wait(self._seconds / 20):
            if self._timer.current != seen:
                seen, patience = self._timer.current, self._seconds
            name, began = seen
            lasted = self._clock() - began
            if lasted >= patience and self._timer.current == seen:
                patience = 2 * lasted
                try:
                    self._write(name, lasted)
                except OSError as error:  # the file system itself may be stuck
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
        logging.warning("%s and keeps waiting; the stacks of all threads are in %s", summary, path)


class ProfileWindow:
    """Profiles a range of steps into `RUN_DIR/profile/process-N`; a resumed run profiles the rest of the range."""

    def __init__(self, run_dir: str | Path, first: int, steps: int):
        """Sets the range; nothing is traced yet.

        Args:
            run_dir: each process writes its own directory in it.
            first: the first step, counted from 1.
            steps: the number of steps; 0 for none.
        """
        self._directory = Path(run_dir) / "profile" / f"process-{jax.process_index()}"
        self._window = range(first, first + steps)
        self._running = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Marks the dispatch of a step in the trace, and starts the trace at the first step of the range."""
        if number in self._window and not self._running:
            logging.info("profiling steps %d to %d to %s", number, self._window[-1], self._directory)
            jax.profiler.start_trace(str(self._directory))
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def stop_after(self, number: int, results: Any) -> None:
        """Ends the trace after the last step of the range, once the devices have finished it.

        Args:
            number: number of the step just dispatched.
            results: its outputs.
        """
        if self._running and number >= self._window[-1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends a trace that is still running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            logging.info("wrote the profile to %s", self._directory)


_STATISTICS = {"in_use": "bytes_in_use", "peak": "peak_bytes_in_use", "limit": "bytes_limit"}


def device_memory(devices: Sequence[Any] | None = None) -> dict[str, float]:
    """Returns `memory/in_use_gib`, `memory/peak_gib` and `memory/limit_gib`, of this process's fullest device.

    Reads the allocator's statistics, which does not wait for the devices. Empty where there are none, as on CPU.

    Args:
        devices: default to those of this process.
    """
    statistics = [device.memory_stats() or {} for device in (jax.local_devices() if devices is None else devices)]
    memory = {}
    for name, key in _STATISTICS.items():
        values = [device[key] for device in statistics if key in device]
        if values:
            memory[f"memory/{name}_gib"] = max(values) / 2**30
    return memory


def program_memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the bytes per device that a compiled program needs, by kind; {} where the compiler does not report it.

    `arguments` are the state and the batch; the state is updated in place. `temporaries` are activations, gradients and
    everything else that exists only inside a step.
    """
    analysis = compiled.memory_analysis()
    kinds = ("argument", "output", "alias", "temp", "generated_code")
    names = ("arguments", "outputs", "in_place", "temporaries", "code")
    if analysis is None:
        return {}
    return {name: int(getattr(analysis, f"{kind}_size_in_bytes")) for kind, name in zip(kinds, names, strict=True)}


def describe_program_memory(memory: dict[str, int]) -> str:
    """Returns a line for the log: the memory of a device while a step runs."""
    if not memory:
        return "the compiler does not report how much memory the step needs"
    total = memory["arguments"] + memory["outputs"] - memory["in_place"] + memory["temporaries"] + memory["code"]
    kinds = ", ".join(f"{name} {size / 2**30:.3f}" for name, size in memory.items())
    return f"a step needs {total / 2**30:.3f} GiB per device ({kinds})"
