"""The metrics of a run: `metrics.jsonl`, TensorBoard events, and progress on the terminal.

The loop never waits for the step that it has just dispatched: metrics are fetched one step late.
"""

import collections
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

import jax
from ml_collections import ConfigDict

from slap_jax.atomic import write_text_atomic
from slap_jax.config.defaults import patches_per_column
from slap_jax.errors import UserError
from slap_jax.training.flops import train_step_parts
from slap_jax.training.progress import Progress
from slap_jax.training.timing import StepTimer

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

FILE_NAME = "metrics.jsonl"

# The metrics of a step that are counts; their rates are logged as `speed/NAME_per_s`.
COUNTS = ("clips", "audio_seconds", "audio_tokens", "text_tokens")

# A step's time has these parts; the rest is "other". Evaluations are not part of a step.
_STEP_PHASES = ("data", "dispatch", "device", "checkpoint")
_OUTSIDE_STEPS = ("evaluation",)


class MetricsError(UserError, ValueError):
    """A damaged `metrics.jsonl`."""


class MetricWriter:
    """Writes the metrics of training, one step late so that the host never waits for the step it just dispatched."""

    def __init__(
        self,
        run_dir: str | os.PathLike,
        tensorboard: bool = True,
        *,
        total_steps: int = 0,
        log_every: int = 1,
        restored_step: int = 0,
        timer: StepTimer | None = None,
        throughput: "Throughput | None" = None,
        gauges: Sequence[Callable[[int], Mapping[str, float]]] = (),
        stream: TextIO | None = None,
        enabled: bool = True,
    ):
        """Opens the files and drops the entries after `restored_step`, because those steps run again.

        Args:
            run_dir: receives `metrics.jsonl` and `tensorboard/`.
            tensorboard: also write TensorBoard events.
            total_steps: length of the run, for the progress bar and the time left; 0 is unknown.
            log_every: steps between two lines; the first and the last step of the run always get a line.
            restored_step: finished steps of the checkpoint that the run resumes from, 0 for a new run.
            timer: timer of the training script; fetching metrics is its phase "device".
            throughput: rates and MFU; by default the rates alone, timed by `timer`.
            gauges: each returns more metrics for a line, given the step.
            stream: receives progress, standard error by default.
            enabled: False in all processes but the first: they fetch metrics, because the loop reads what `write`
                returns, but write nothing.
        """
        self._total_steps = total_steps
        self._log_every = log_every
        self._gauges = gauges
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        self._first_step: int | None = None
        self._timer = timer or StepTimer()
        self._throughput = throughput or Throughput(self._timer)
        self._closing = contextlib.ExitStack()
        self._file: TextIO | None = None
        self._tensorboard: SummaryWriter | None = None
        self._progress: Progress | None = None
        if enabled:
            directory = Path(run_dir)
            directory.mkdir(parents=True, exist_ok=True)
            drop_after(directory / FILE_NAME, restored_step)
            self._file = open(directory / FILE_NAME, "a", encoding="utf-8")  # noqa: SIM115  (closed by `close`)
            self._closing.callback(self._file.close)
            if tensorboard:
                import tensorboardX  # slow to import

                # TensorBoard hides the events of an earlier process from this step on: those steps run again.
                purge = restored_step + 1 if any((directory / "tensorboard").glob("events*")) else None
                # The suffix keeps a run that resumes within a second from overwriting the file, named by the second.
                self._tensorboard = tensorboardX.SummaryWriter(
                    str(directory / "tensorboard"), purge_step=purge, filename_suffix=f".from_step_{restored_step}"
                )
                self._closing.callback(self._tensorboard.close)
            self._progress = Progress(stream or sys.stderr, total_steps, restored_step)
            self._closing.callback(self._progress.close)

    def write(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float] | None:
        """Keeps the metrics of the step just dispatched, and writes those of the step before it.

        Args:
            step: counted from 1.
            metrics: device scalars, fetched by the next call.

        Returns:
            The fetched metrics of the step before; None at the first call.
        """
        previous, self._pending = self._pending, (step, metrics)
        if self._first_step is None:
            self._first_step = step
        return None if previous is None else self._fetch(*previous)

    def flush(self) -> dict[str, float] | None:
        """Waits for the pending step and writes its metrics; returns them, or None if no step is pending."""
        previous, self._pending = self._pending, None
        return None if previous is None else self._fetch(*previous)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes a separate line at once, for example the results of an evaluation."""
        self._write_line(step, {name: float(value) for name, value in scalars.items()})

    def note(self, text: str) -> None:
        """Prints a line on the console."""
        if self._progress is not None:
            self._progress.note(text)

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[Callable[[str, int, int], None] | None]:
        """Writes the pending step; yields the `progress` of an evaluation, None in all processes but the first."""
        self.flush()
        if self._progress is None:
            yield None
            return
        with self._progress.evaluation() as shown:
            yield shown

    def close(self) -> None:
        """Writes the pending step and closes the files."""
        with self._closing:
            self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _fetch(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        # One explicit transfer for all scalars. It waits for this step only; the next one is already queued.
        with self._timer.during("device"):
            values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        self._throughput.add(values)
        if step % self._log_every == 0 or step in (self._first_step, self._total_steps):
            rates = self._throughput.read()
            for gauge in self._gauges:
                rates |= gauge(step)
            self._write_line(step, values | rates)
            if self._progress is not None:
                self._progress.line(step, values, rates)
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


class Throughput:
    """Rates between two readings: counts and FLOPs per second, seconds per step, and MFU.

        MFU = useful FLOPs / time / peak = useful_share x (1 - fraction of time waiting for data) x peak_share

    `useful_share` is the useful FLOPs over the FLOPs with padding, `peak_share` the FLOPs with padding per second of
    computing over the peak. The first step only starts the clock: compilation and set-up come before it.
    """

    def __init__(self, timer: StepTimer, config: ConfigDict | None = None, peak_flops: float = 0.0):
        """Starts with no steps.

        Args:
            timer: timer of the training script.
            config: the whole configuration; None leaves out FLOPs and MFU.
            peak_flops: per second, of all devices; 0 leaves out FLOPs and MFU.
        """
        self._timer, self._config, self._peak = timer, config if peak_flops > 0 else None, peak_flops
        self._start: dict[str, float] | None = None
        self._reset()

    def add(self, values: Mapping[str, float]) -> None:
        """Adds one finished step, given its metrics."""
        if self._start is None:
            self._start = self._timer.seconds()
            return
        self._steps += 1
        self._counts.update({name: values[name] for name in COUNTS if name in values})
        if self._config is not None:
            self._flops.update(train_step_parts(self._config, values))
            self._padded_flops += padded_flops(self._config, values)

    def read(self) -> dict[str, float]:
        """Returns the rates since the last reading and starts again; empty before the second step."""
        if self._start is None or self._steps == 0:
            return {}
        now = self._timer.seconds()
        spent = {name: now[name] - self._start[name] for name in now if name not in _OUTSIDE_STEPS}
        seconds = max(sum(spent.values()), 1e-9)
        rates = {f"speed/{name}_per_s": total / seconds for name, total in self._counts.items()}
        rates["speed/steps_per_s"] = self._steps / seconds
        rates["time/step"] = seconds / self._steps
        rates |= {f"time/{phase}": spent[phase] / self._steps for phase in _STEP_PHASES}
        rates["time/other"] = (seconds - sum(spent[phase] for phase in _STEP_PHASES)) / self._steps
        if self._config is not None:
            rates |= self._mfu(seconds, waiting=spent["data"] / seconds)
        self._start = now
        self._reset()
        return rates

    def _mfu(self, seconds: float, waiting: float) -> dict[str, float]:
        useful = sum(self._flops.values()) / seconds
        padded = self._padded_flops / seconds
        return {
            "speed/flops_per_s": useful,
            "speed/mfu": useful / self._peak,
            **{f"mfu/{part}": flops / seconds / self._peak for part, flops in self._flops.items()},
            "speed/useful_share": useful / padded,
            "speed/peak_share": padded / self._peak / max(1 - waiting, 1e-9),
        }

    def _reset(self) -> None:
        self._steps = 0
        self._counts: collections.Counter[str] = collections.Counter()
        self._flops: collections.Counter[str] = collections.Counter()
        self._padded_flops = 0.0


def padded_flops(config: ConfigDict, values: Mapping[str, float]) -> float:
    """Returns the FLOPs of a step whose rows are full and whose slots all hold a clip.

    That is what matrix products compute. Attention inside padding is left out: kernels can skip it.

    Args:
        config: the whole configuration.
        values: metrics of the step.
    """
    full = {
        "clips": config.data.rows * config.data.slots,
        "audio_tokens": config.data.rows * config.data.columns * patches_per_column(config.audio),
        "text_tokens": config.data.rows * config.data.text_tokens,
    }
    return sum(train_step_parts(config, {**values, **full}).values())


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of a `metrics.jsonl`; a last line cut off by a kill is left out.

    Raises:
        MetricsError: a line before the last one is not JSON, or a line does not hold a step and numbers.
    """
    texts = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            if number < len(texts):
                raise MetricsError(f"{path}: line {number} is not JSON: {text[:80]!r}; delete that line") from None
            break
        if not (isinstance(line, dict) and isinstance(line.get("step"), int) and all(map(_is_metric, line.values()))):
            raise MetricsError(f"{path}: line {number} is not a step with numbers: {text[:80]!r}; delete that line")
        lines.append(line)
    return lines


def _is_metric(value: Any) -> bool:
    return value is None or isinstance(value, (int, float))  # None: it was not finite


def drop_after(path: Path, step: int) -> None:
    """Removes the lines of steps after `step`, and a broken last line; replaces the file atomically."""
    if not path.exists():
        return
    lines = [line for line in read_metrics(path) if line["step"] <= step]
    write_text_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))
