"""Goodput: the share of the time since a run first started that went into steps which still count, over all restarts.

Each start of the script is a session, kept in `RUN_DIR/goodput.json`. What is not goodput has a reason:

    repeated     steps done after the checkpoint that the next session went on from, so done again
    data         waiting for data
    checkpoint   waiting for a checkpoint to be copied from the devices
    evaluation   evaluations in the loop
    starting     imports are over, data are opened; also what is waited for between hosts
    compiling    the training step
    restoring    reading a checkpoint, or creating the first state
    down         no session ran, or one that did not come as far as its first step

What the training script is doing: named phases, one at a time, and the seconds spent in each.
"""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from slap_jax.atomic import write_text_atomic

FILE_NAME = "goodput.json"
_TRAINING = ("dispatch", "device", "other")
_REASONS = ("training", "repeated", "data", "checkpoint", "evaluation", "starting", "compiling", "restoring")


@dataclasses.dataclass
class Session:
    """One start of the script.

    Attributes:
        started: when, in seconds since 1970.
        ended: when it was last heard of.
        restored_step: finished steps of the checkpoint that it went on from.
        last_step: the last one that it finished.
        seconds: spent in each phase (`slap_jax.training.timing`).
    """

    started: float
    ended: float
    restored_step: int
    last_step: int
    seconds: dict[str, float]


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


class Goodput:
    """The sessions of a run, the present one last."""

    def __init__(
        self,
        run_dir: str | Path,
        phases: Phases,
        restored_step: int,
        enabled: bool = True,
        clock: Callable[[], float] = time.time,
    ):
        """Reads the sessions before this one.

        Args:
            run_dir: holds `goodput.json`.
            phases: of this process, since it started.
            restored_step: finished steps of the checkpoint that this session goes on from.
            enabled: False in all processes but the first, which neither read nor write.
            clock: seconds since 1970.
        """
        self._path, self._phases, self._enabled, self._clock = Path(run_dir) / FILE_NAME, phases, enabled, clock
        now, seconds = clock(), phases.seconds()
        self._sessions = read_sessions(self._path) if enabled else []
        self._sessions.append(Session(now - sum(seconds.values()), now, restored_step, restored_step, seconds))

    def update(self, step: int) -> dict[str, float]:
        """Writes the file and returns `goodput` and `run_time/<reason>`, all shares of the time since the first start.

        Args:
            step: the last one that is finished.
        """
        if not self._enabled:
            return {}
        present = self._sessions[-1]
        present.ended, present.last_step, present.seconds = self._clock(), step, self._phases.seconds()
        content = json.dumps({"sessions": [dataclasses.asdict(session) for session in self._sessions]}, indent=1)
        write_text_atomic(self._path, content + "\n")
        shares = shares_of(self._sessions)
        return {"goodput": shares.pop("training")} | {f"run_time/{reason}": share for reason, share in shares.items()}

    def describe(self, step: int) -> str:
        """Returns the line for the end of a run: goodput, and the reasons that took 1 % or more of the time."""
        metrics = self.update(step)
        hours = (self._sessions[-1].ended - self._sessions[0].started) / 3_600
        goodput = metrics.pop("goodput")
        reasons = sorted(metrics.items(), key=lambda item: -item[1])
        rest = [f"{name.removeprefix('run_time/')} {share:.0%}" for name, share in reasons if share >= 0.01]
        return (
            f"goodput {goodput:.1%} of {hours:.2f} h since the run first started; else: {', '.join(rest) or 'nothing'}"
        )


def shares_of(sessions: Sequence[Session]) -> dict[str, float]:
    """Returns the shares of the time from the first session's start to the last one's end; they add up to 1.

    Steps of a session are taken to last equally long.
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
    """Returns the sessions of a `goodput.json`, none if there is none; a damaged file starts the count anew."""
    if not path.exists():
        return []
    try:
        return [Session(**session) for session in json.loads(path.read_text(encoding="utf-8"))["sessions"]]
    except (ValueError, KeyError, TypeError) as error:
        logging.warning("%s cannot be read (%s); goodput is counted from now on", path, error)
        return []


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
