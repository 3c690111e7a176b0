"""Where the time of a run goes: the phases of one process, and the goodput of a run over all its restarts.

Goodput is the fraction of the time since a run first started that went into steps that still count. Each start of the
script is a session, recorded in `RUN_DIR/goodput.json`. The rest of the time has a reason:

    repeated     steps after the checkpoint that the next session resumed from, so done twice
    data         waiting for data
    checkpoint   waiting for a checkpoint to be copied from the devices
    evaluation   evaluations in the loop
    starting     opening data and joining the other hosts, after the imports
    compiling    the training step
    restoring    reading a checkpoint, or creating the first state
    down         no session was running, or one that never finished a step
"""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from slap_jax.atomic import write_text_atomic

# Phase -> how a message describes it.
PHASES = {
    "starting": "starting",
    "compiling": "compiling the step",
    "restoring": "restoring a checkpoint, or creating the first state",
    "data": "waiting for data",
    "dispatch": "dispatching a step to the devices",
    "device": "waiting for the devices",
    "checkpoint": "saving a checkpoint",
    "evaluation": "evaluating",
    "other": "between two steps",
}

FILE_NAME = "goodput.json"
_TRAINING = ("dispatch", "device", "other")
_REASONS = ("training", "repeated", "data", "checkpoint", "evaluation", "starting", "compiling", "restoring")


class StepTimer:
    """Adds up the seconds spent in each phase; in nested phases only the innermost counts.

    One thread, that of the training script, changes phases; any thread may read the current one.

    Attributes:
        current: the phase, and when it began on `clock`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self.current: tuple[str, float] = ("starting", clock())

    def enter(self, phase: str) -> None:
        """Ends the current phase and begins another."""
        assert phase in PHASES, phase
        previous, began = self.current
        now = self._clock()
        self._seconds[previous] += now - began
        self.current = (phase, now)

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Enters the phase for the body of the `with`, then returns to the phase before it."""
        previous = self.current[0]
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(previous)

    def seconds(self) -> dict[str, float]:
        """Returns the seconds spent in every phase, including the current one so far."""
        phase, began = self.current
        return {**self._seconds, phase: self._seconds[phase] + self._clock() - began}


@dataclasses.dataclass
class Session:
    """One start of the training script.

    Attributes:
        started: seconds since 1970.
        ended: its last sign of life, in seconds since 1970.
        restored_step: finished steps of the checkpoint that it resumed from.
        last_step: the last step that it finished.
        seconds: spent in each phase.
    """

    started: float
    ended: float
    restored_step: int
    last_step: int
    seconds: dict[str, float]


class Goodput:
    """The sessions of a run; the current one is the last."""

    def __init__(
        self,
        run_dir: str | Path,
        timer: StepTimer,
        restored_step: int,
        enabled: bool = True,
        clock: Callable[[], float] = time.time,
    ):
        """Reads the earlier sessions.

        Args:
            run_dir: holds `goodput.json`.
            timer: timer of this process, running since it started.
            restored_step: finished steps of the checkpoint that this session resumes from.
            enabled: False in all processes but the first, which neither read nor write.
            clock: returns the seconds since 1970.
        """
        self._path, self._timer, self._enabled, self._clock = Path(run_dir) / FILE_NAME, timer, enabled, clock
        now, seconds = clock(), timer.seconds()
        self._sessions = read_sessions(self._path) if enabled else []
        self._sessions.append(Session(now - sum(seconds.values()), now, restored_step, restored_step, seconds))

    def update(self, step: int) -> dict[str, float]:
        """Writes the file; returns `goodput` and `run_time/REASON`, fractions of the time since the first start.

        Args:
            step: the last finished step.
        """
        if not self._enabled:
            return {}
        session = self._sessions[-1]
        session.ended, session.last_step, session.seconds = self._clock(), step, self._timer.seconds()
        content = json.dumps({"sessions": [dataclasses.asdict(session) for session in self._sessions]}, indent=1)
        write_text_atomic(self._path, content + "\n")
        fractions = time_fractions(self._sessions)
        return {"goodput": fractions.pop("training")} | {
            f"run_time/{reason}": fraction for reason, fraction in fractions.items()
        }

    def describe(self, step: int) -> str:
        """Returns the last line of a run's log: goodput, and the reasons that took 1 % of the time or more."""
        metrics = self.update(step)
        hours = (self._sessions[-1].ended - self._sessions[0].started) / 3_600
        goodput = metrics.pop("goodput")
        reasons = sorted(metrics.items(), key=lambda item: -item[1])
        rest = [f"{name.removeprefix('run_time/')} {fraction:.0%}" for name, fraction in reasons if fraction >= 0.01]
        return (
            f"goodput {goodput:.1%} of {hours:.2f} h since the run first started; other: {', '.join(rest) or 'nothing'}"
        )


def time_fractions(sessions: Sequence[Session]) -> dict[str, float]:
    """Returns the fractions of the time from the first session's start to the last one's end; they sum to 1.

    The steps of a session count as equally long.
    """
    spent: dict[str, float] = dict.fromkeys(_REASONS, 0.0)
    for number, session in enumerate(sessions):
        counts_until = min([session.last_step, *(later.restored_step for later in sessions[number + 1 :])])
        done = session.last_step - session.restored_step
        kept = max(counts_until - session.restored_step, 0) / done if done else 0.0
        training = sum(session.seconds[phase] for phase in _TRAINING)
        spent["training"] += kept * training
        spent["repeated"] += (1 - kept) * training
        for phase, seconds in session.seconds.items():
            if phase not in _TRAINING:
                spent[phase] += seconds
    total = max(sessions[-1].ended - sessions[0].started, 1e-9)
    spent["down"] = max(total - sum(spent.values()), 0.0)
    return {reason: seconds / total for reason, seconds in spent.items()}


def read_sessions(path: Path) -> list[Session]:
    """Returns the sessions of a `goodput.json`; none if the file does not exist or is damaged."""
    if not path.exists():
        return []
    try:
        return [Session(**session) for session in json.loads(path.read_text(encoding="utf-8"))["sessions"]]
    except (ValueError, KeyError, TypeError) as error:
        logging.warning("%s cannot be read (%s); goodput counts from this session on", path, error)
        return []
