"""Writes down where a process is stuck: the stacks of all its threads, when one phase of training lasts too long.

A profile of a few steps: `config.train.profile_start` and `profile_steps`, in `RUN_DIR/profile/process-N`.

Memory of the devices: what the running step uses, and what its program was compiled to need.
"""

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

from slap_jax.training.timing import PHASES, Phases


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


_STATISTICS = {"in_use": "bytes_in_use", "peak": "peak_bytes_in_use", "limit": "bytes_limit"}


def device_memory(devices: Sequence[Any] | None = None) -> dict[str, float]:
    """Returns `memory/in_use_gib`, `memory/peak_gib` and `memory/limit_gib`, of the fullest device of this process.

    Only asks the allocator, so it does not wait for the devices. Empty where there are no statistics, as on CPU.

    Args:
        devices: those of this process by default.
    """
    statistics = [device.memory_stats() or {} for device in (jax.local_devices() if devices is None else devices)]
    memory = {}
    for name, key in _STATISTICS.items():
        values = [device[key] for device in statistics if key in device]
        if values:
            memory[f"memory/{name}_gib"] = max(values) / 2**30
    return memory


def program_memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the bytes per device that a compiled program needs, by kind; {} where the compiler does not tell.

    `arguments` holds state and batch, of which the state is given back in place; `temporaries` the activations,
    gradients and everything else that lives inside a step only.
    """
    analysis = compiled.memory_analysis()
    kinds = ("argument", "output", "alias", "temp", "generated_code")
    names = ("arguments", "outputs", "in_place", "temporaries", "code")
    if analysis is None:
        return {}
    return {name: int(getattr(analysis, f"{kind}_size_in_bytes")) for kind, name in zip(kinds, names, strict=True)}


def describe_program_memory(memory: dict[str, int]) -> str:
    """Returns the sentence for the log: what a device holds while a step runs."""
    if not memory:
        return "the compiler does not tell how much memory the step needs"
    total = memory["arguments"] + memory["outputs"] - memory["in_place"] + memory["temporaries"] + memory["code"]
    kinds = ", ".join(f"{name} {size / 2**30:.3f}" for name, size in memory.items())
    return f"a step needs {total / 2**30:.3f} GiB per device ({kinds})"
