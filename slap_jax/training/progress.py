"""The progress of a run on the console: a bar on a terminal, lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

# The progress line reports the time spent waiting for data from this fraction on.
SLOW_DATA = 0.1

# Away from a terminal an evaluation reports its progress at these fractions, if the last line is older than that.
_MILESTONES = (0.25, 0.5, 0.75)
_QUIET_SECONDS = 15.0


class Progress:
    """Steps, evaluations and single lines on one stream, without one breaking the others."""

    def __init__(self, stream: TextIO, total_steps: int, start: int, clock: Callable[[], float] = time.monotonic):
        """Starts the bar, if the stream is a terminal.

        Args:
            stream: receives everything.
            total_steps: length of the run; 0 is unknown.
            start: steps that are already done.
            clock: seconds, for the lines of evaluations.
        """
        self._stream, self._total, self._clock = stream, total_steps, clock
        self._closing = contextlib.ExitStack()
        self._bar = None
        if stream.isatty():
            self._bar = tqdm(total=total_steps or None, initial=start, file=stream, unit="step", dynamic_ncols=True)
            self._closing.callback(self._bar.close)
            self._closing.enter_context(logging_redirect_tqdm())  # messages appear above the bar

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Advances the bar."""
        if self._bar is not None:
            if "loss/total" in values:
                self._bar.set_postfix_str(f"loss {values['loss/total']:.3f}", refresh=False)
            self._bar.update(step - self._bar.n)

    def line(self, step: int, values: Mapping[str, float], rates: Mapping[str, float]) -> None:
        """Prints the line of a logged step, if there is no bar."""
        if self._bar is not None:
            return
        parts = [f"step {step:,}" + (f"/{self._total:,}" if self._total else "")]
        parts += [f"{name} {value:.4f}" for name, value in values.items() if name.startswith("loss/")]
        if "speed/audio_seconds_per_s" in rates:
            parts.append(f"{rates['speed/audio_seconds_per_s']:,.0f} s of audio/s")
        if "speed/mfu" in rates:
            parts.append(f"MFU {rates['speed/mfu']:.1%}")
        waiting = rates.get("time/data", 0.0) / rates.get("time/step", 1.0)
        if waiting >= SLOW_DATA:
            parts.append(f"waiting for data {waiting:.0%}")
        if self._total and "speed/steps_per_s" in rates:
            parts.append(f"{duration((self._total - step) / rates['speed/steps_per_s'])} left")
        self.note("  ".join(parts))

    def note(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[Callable[[str, int, int], None]]:
        """Yields a function that shows `evaluating NAME: n of N clips`; the time does not count as that of steps."""
        shown = _EvaluationBars(self._stream) if self._bar is not None else _EvaluationLines(self.note, self._clock)
        try:
            yield shown
        finally:
            shown.close()
            if self._bar is not None:
                self._bar.unpause()

    def close(self) -> None:
        """Ends the bar."""
        self._closing.close()


class _EvaluationBars:
    """A bar for one set after the other, which disappears when the set is done."""

    def __init__(self, stream: TextIO):
        self._stream, self._name = stream, ""
        self._bar: tqdm | None = None

    def __call__(self, name: str, done: int, total: int) -> None:
        if self._bar is None or name != self._name:
            self.close()
            self._name = name
            self._bar = tqdm(
                total=total,
                desc=f"evaluating {name}",
                file=self._stream,
                dynamic_ncols=True,
                leave=False,
                mininterval=0.0,  # a call is a chunk of clips
                bar_format="{desc}: {n_fmt} of {total_fmt} clips {bar} {elapsed}",
            )
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _EvaluationLines:
    """A few lines for a set that takes long."""

    def __init__(self, note: Callable[[str], None], clock: Callable[[], float]):
        self._note, self._clock = note, clock
        self._name, self._passed, self._printed = "", 0, clock()

    def __call__(self, name: str, done: int, total: int) -> None:
        if name != self._name:
            self._name, self._passed = name, 0
        passed = sum(done >= milestone * total for milestone in _MILESTONES)
        if passed > self._passed and done < total and self._clock() - self._printed >= _QUIET_SECONDS:
            self._note(f"evaluating {name}: {done:,} of {total:,} clips")
            self._printed = self._clock()
        self._passed = passed

    def close(self) -> None:
        pass


def duration(seconds: float) -> str:
    """Formats seconds as h:mm:ss."""
    hours, rest = divmod(int(seconds), 3_600)
    return f"{hours:d}:{rest // 60:02d}:{rest % 60:02d}"
