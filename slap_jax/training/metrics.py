"""Metrics of a run: JSONL always, TensorBoard if wanted, progress on a terminal; never a device sync in the loop.

Speed of training between two readings: counts per second, and what the time of a step was spent on.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TextIO

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from slap_jax.atomic import write_text_atomic
from slap_jax.training.flops import Mfu
from slap_jax.training.timing import Phases

FILE_NAME = "metrics.jsonl"

# Metrics of a step that are counts: their sums between two lines, divided by the time, become `speed/<name>_per_s`.
COUNTS = ("clips", "audio_seconds", "audio_tokens", "text_tokens")

# Share of the time spent waiting for data from which on the progress line says so.
SLOW_DATA = 0.1


class MetricWriter:
    """Writes the metrics of training, one step late so that the host never waits for the step it just started."""

    def __init__(
        self,
        run_dir: str | os.PathLike,
        tensorboard: bool = True,
        *,
        total_steps: int = 0,
        log_every: int = 1,
        restored_step: int = 0,
        phases: Phases | None = None,
        hardware_use: Mfu | None = None,
        sources: Sequence[Callable[[int], Mapping[str, float]]] = (),
        stream: TextIO | None = None,
        enabled: bool = True,
    ):
        """Opens the files; what they hold of steps after `restored_step` is dropped, those steps are run again.

        Args:
            run_dir: holds `metrics.jsonl` and `tensorboard/`.
            tensorboard: also write TensorBoard events.
            total_steps: length of the run, for the progress bar and the time left; 0 is unknown.
            log_every: steps between two lines; the first and the last step of the run get one too.
            restored_step: finished steps of the checkpoint that the run goes on from, 0 for a new run.
            phases: of the training script, for speeds and `time/`; a waiting fetch is its phase "device".
            hardware_use: adds `speed/mfu` and its parts; None where the devices' peak is not known.
            sources: each is asked for more metrics at every line, with the step.
            stream: where progress goes, standard error by default.
            enabled: False in all processes but the first: they fetch (the loop reads what `write` returns) but write
                nothing.
        """
        self._total_steps = total_steps
        self._log_every = log_every
        self._hardware_use = hardware_use
        self._sources = sources
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        self._first_step: int | None = None
        self._phases = phases or Phases()
        self._speed = Speed(self._phases)
        self._closing = contextlib.ExitStack()
        self._file: TextIO | None = None
        self._tensorboard: SummaryWriter | None = None
        self._progress: _Progress | None = None
        if enabled:
            directory = Path(run_dir)
            directory.mkdir(parents=True, exist_ok=True)
            drop_after(directory / FILE_NAME, restored_step)
            self._file = open(directory / FILE_NAME, "a", encoding="utf-8")  # noqa: SIM115  (closed by `close`)
            self._closing.callback(self._file.close)
            if tensorboard:
                # TensorBoard hides the events of an earlier process from this step on: those steps come again.
                purge = restored_step + 1 if any((directory / "tensorboard").glob("events*")) else None
                # The suffix keeps a run that resumes within a second from overwriting the file, named by the second.
                self._tensorboard = SummaryWriter(
                    str(directory / "tensorboard"), purge_step=purge, filename_suffix=f".from_step_{restored_step}"
                )
                self._closing.callback(self._tensorboard.close)
            self._progress = _Progress(stream or sys.stderr, total_steps, restored_step)
            self._closing.callback(self._progress.close)

    def write(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float] | None:
        """Takes the metrics of the step just dispatched and writes those of the step before it.

        Args:
            step: number of the step, counted from 1.
            metrics: device scalars; not waited for before the next call.

        Returns:
            The fetched metrics of the step before, None at the first call.
        """
        previous, self._pending = self._pending, (step, metrics)
        if self._first_step is None:
            self._first_step = step
        return None if previous is None else self._fetch(*previous)

    def flush(self) -> dict[str, float] | None:
        """Fetches and writes the step that is still held, which waits for it; None if there is none."""
        previous, self._pending = self._pending, None
        return None if previous is None else self._fetch(*previous)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes a line of its own at once, for example the results of an evaluation."""
        self._write_line(step, {name: float(value) for name, value in scalars.items()})

    def close(self) -> None:
        """Writes what is held and closes the files."""
        with self._closing:
            self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _fetch(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        # One explicit transfer for all scalars; it waits for this step only, the next one is already queued.
        with self._phases.during("device"):
            values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        counts = {name: values[name] for name in COUNTS if name in values}
        if self._hardware_use is not None:
            counts |= self._hardware_use.flops(values)
        self._speed.add(counts)
        if step % self._log_every == 0 or step in (self._first_step, self._total_steps):
            speeds = self._speed.read()
            if self._hardware_use is not None:
                speeds = self._hardware_use.metrics(speeds)
            for source in self._sources:
                speeds |= source(step)
            self._write_line(step, values | speeds)
            if self._progress is not None:
                self._progress.line(step, values, speeds)
        if self._progress is not None:
            self._progress.step(step, values)
        return values

    def _write_line(self, step: int, values: Mapping[str, float]) -> None:
        if self._file is None:
            return
        line = {"step": step, "time": round(time.time(), 3)}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()  # a killed run loses one line at most
        if self._tensorboard is not None:
            for name, value in values.items():
                if math.isfinite(value):
                    self._tensorboard.add_scalar(name, value, step)


class _Progress:
    """A bar with loss, speed and time left on a terminal; plain lines otherwise."""

    def __init__(self, stream: TextIO, total_steps: int, start: int):
        self._stream = stream
        self._total = total_steps
        self._bar = None
        if stream.isatty():
            self._bar = tqdm(total=total_steps or None, initial=start, file=stream, unit="step", dynamic_ncols=True)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        if self._bar is not None:
            if "loss/total" in values:
                self._bar.set_postfix_str(f"loss {values['loss/total']:.3f}", refresh=False)
            self._bar.update(step - self._bar.n)

    def line(self, step: int, values: Mapping[str, float], speeds: Mapping[str, float]) -> None:
        if self._bar is not None:
            return
        parts = [f"step {step:,}" + (f"/{self._total:,}" if self._total else "")]
        parts += [f"{name} {value:.4f}" for name, value in values.items() if name.startswith("loss/")]
        if "speed/audio_seconds_per_s" in speeds:
            parts.append(f"{speeds['speed/audio_seconds_per_s']:,.0f} s of audio/s")
        if "speed/mfu" in speeds:
            parts.append(f"MFU {speeds['speed/mfu']:.1%}")
        waiting = speeds.get("time/data", 0.0) / speeds.get("time/step", 1.0)
        if waiting >= SLOW_DATA:
            parts.append(f"waiting for data {waiting:.0%}")
        if self._total and "speed/steps_per_s" in speeds:
            parts.append(f"{_duration((self._total - step) / speeds['speed/steps_per_s'])} left")
        print("  ".join(parts), file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3_600)
    return f"{hours:d}:{rest // 60:02d}:{rest % 60:02d}"


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of a `metrics.jsonl`; a last line cut off by a kill is left out.

    Raises:
        ValueError: a line before the last one is no JSON.
    """
    texts = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            if number < len(texts):
                raise ValueError(f"{path}: line {number} is no JSON: {text[:80]!r}; delete that line") from None
    return lines


def drop_after(path: Path, step: int) -> None:
    """Removes the lines of steps after `step`, and a broken last line; replaces the file atomically."""
    if not path.exists():
        return
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    write_text_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))


# Of a step. The rest of the loop is "other"; an evaluation is no part of a step.
_PARTS = ("data", "dispatch", "device", "checkpoint")
_NO_PART = ("evaluation",)


class Speed:
    """Counts per second and seconds per step; the first step only starts the clock, what came before it is set-up."""

    def __init__(self, phases: Phases):
        self._phases = phases
        self._start: dict[str, float] | None = None
        self._totals: dict[str, float] = {}
        self._steps = 0

    def add(self, counts: Mapping[str, float]) -> None:
        """Adds the counts of one finished step."""
        if self._start is None:
            self._start = self._phases.seconds()
            return
        self._steps += 1
        for name, count in counts.items():
            self._totals[name] = self._totals.get(name, 0.0) + count

    def read(self) -> dict[str, float]:
        """Returns `speed/<count>_per_s`, `speed/steps_per_s`, `time/step` and its parts, then starts from zero.

        Nothing before two steps.
        """
        if self._start is None or self._steps == 0:
            return {}
        now = self._phases.seconds()
        spent = {name: now[name] - self._start[name] for name in now if name not in _NO_PART}
        seconds = max(sum(spent.values()), 1e-9)
        read = {f"speed/{name}_per_s": total / seconds for name, total in self._totals.items()}
        read["speed/steps_per_s"] = self._steps / seconds
        read["time/step"] = seconds / self._steps
        read |= {f"time/{part}": spent[part] / self._steps for part in _PARTS}
        read["time/other"] = (seconds - sum(spent[part] for part in _PARTS)) / self._steps
        self._start, self._totals, self._steps = now, {}, 0
        return read
