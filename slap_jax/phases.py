"""What the training script is doing: named phases, one at a time, and the seconds spent in each."""

import contextlib
import time
from collections.abc import Callable, Iterator

# Name -> how a message says that the script is in it.
PHASES = {
    "starting": "starting",
    "compiling": "compiling the step",
    "restoring": "restoring a checkpoint, or creating the first state",
    "data": "waiting for data",
    "dispatch": "handing a step to the devices",
    "device": "waiting for the devices",
    "checkpoint": "saving a checkpoint",
    "evaluation": "evaluating",
    "other": "between two steps",
}


class Phases:
    """Adds up the time of phases; of phases inside each other only the innermost counts.

    One thread, the training script's, changes phases; any thread may ask for the present one.

    Attributes:
        present: name of the phase and when it began, on `clock`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """Begins with the phase "starting"."""
        self._clock = clock
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self.present: tuple[str, float] = ("starting", clock())

    def enter(self, name: str) -> None:
        """Ends the present phase and begins another."""
        assert name in PHASES, name
        before, began = self.present
        now = self._clock()
        self._seconds[before] += now - began
        self.present = (name, now)

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Is in the phase while the body runs, then in the one before again."""
        before = self.present[0]
        self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def seconds(self) -> dict[str, float]:
        """Returns the seconds spent in every phase, the present one included."""
        name, began = self.present
        return {**self._seconds, name: self._seconds[name] + self._clock() - began}
