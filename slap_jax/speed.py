"""Speed of training between two readings: counts per second, and what the time of a step was spent on."""

from collections.abc import Mapping

from slap_jax.phases import Phases

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
