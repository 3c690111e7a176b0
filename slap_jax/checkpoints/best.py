"""The best checkpoint of a run by one metric of its evaluations, and early stopping.

`RUN/best` is a run directory with a single checkpoint, so every command that takes a run also takes `RUN/best`.
`RUN/best.json` records the evaluations and which of them is the best.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from slap_jax.atomic import write_text_atomic
from slap_jax.checkpoints.run import CheckpointError, Checkpoints, restore_meta
from slap_jax.config.rules import ConfigError

DIRECTORY = "best"  # inside a run directory
HISTORY = "best.json"


class BestCheckpoint:
    """Keeps the checkpoint with the best value of `config.train.best_metric`, which must not be empty.

    `best` always describes the checkpoint on disk. A resumed run therefore starts with the value of `RUN/best`, even if
    its step is later than the one from which the run resumes: the checkpoint exists, and its value was measured. The
    run may evaluate that step again with another result, for example on other hardware, and replaces the checkpoint
    only with a better one.

    Attributes:
        best: (step, value) of the checkpoint in `RUN/best`; None before the first finite value.
    """

    def __init__(self, config: ConfigDict, run_dir: Path, restored_step: int, enabled: bool = True):
        """Opens `RUN/best` and reads what earlier processes of the run evaluated.

        Args:
            config: config of the run.
            run_dir: the run directory.
            restored_step: step the run resumes from, 0 for a new run; evaluations of later steps are dropped because
                they run again.
            enabled: False in all processes but the first. They take part in saving but write no other file.

        Raises:
            CheckpointError: `RUN/best.json` is damaged.
        """
        self._setting = config.train.best_metric
        self._name, self._lower_is_better = parse_best_metric(self._setting)
        self._patience = config.train.patience
        self._run_dir = run_dir
        self._enabled = enabled
        self._checkpoints = Checkpoints(run_dir / DIRECTORY / "checkpoints", keep=1, every=1, handle_signals=False)
        self._evaluations: dict[int, float | None] = {}  # step -> value; None if it was not finite
        self.best: tuple[int, float] | None = None
        if restored_step:
            self._resume(restored_step)
        if enabled:
            write_text_atomic(run_dir / DIRECTORY / "config.json", config.to_json_best_effort(indent=2) + "\n")

    @property
    def should_stop(self) -> bool:
        """Whether the last `config.train.patience` evaluations brought no better value; False if patience is 0."""
        if self._patience == 0 or self.best is None:
            return False
        best_step, _ = self.best
        return sum(step > best_step for step in self._evaluations) >= self._patience

    def update(
        self, step: int, metrics: Mapping[str, float], state: Any, data_state: dict[str, Any], meta: dict[str, Any]
    ) -> None:
        """Records an evaluation and saves the step if its value is the best so far; of equal values the first stays.

        Args:
            step: the evaluated step.
            metrics: name -> value.
            state: training state, as in `Checkpoints.save`.
            data_state: as in `Checkpoints.save`.
            meta: as in `Checkpoints.save`.

        Raises:
            ConfigError: the evaluation has no such metric.
        """
        if self._name not in metrics:
            raise ConfigError(
                f"config.train.best_metric is {self._setting!r}, but the evaluation has only: "
                f"{', '.join(sorted(metrics))}"
            )
        value = float(metrics[self._name])
        self._evaluations[step] = value if math.isfinite(value) else None
        if self._is_better(value):
            # Orbax keeps the newest step. After a resume the old best may be that of a later step, or of this one.
            self._checkpoints.delete_from(step)
            self._checkpoints.save(step, state, data_state, {**meta, "best": {self._name: value}}, force=True)
            self.best = (step, value)
        if self._enabled:
            self._write_history()

    def describe(self) -> str:
        """Names the best step, its value and its directory; "" before the first finite value."""
        if self.best is None:
            return ""
        step, value = self.best
        return f"best step {step}: {self._name} {value:.4f}, in {self._run_dir / DIRECTORY}"

    def close(self) -> None:
        """Waits for the last save."""
        self._checkpoints.close()

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        return value < self.best[1] if self._lower_is_better else value > self.best[1]

    def _resume(self, restored_step: int) -> None:
        path = self._run_dir / HISTORY
        try:
            history: Any = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"metric": ""}
            if history["metric"] != self._setting:
                return
            self._evaluations = {
                step: value if value is not None and math.isfinite(value) else None
                for step, value in history["evaluations"]
                if step <= restored_step
            }
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error!r}); restore it, or delete it to start the choice of the best step again"
            ) from None
        step = self._checkpoints.latest()
        if step is not None:
            value = restore_meta(self._checkpoints.directory, step)["best"][self._name]
            self.best = (step, value) if math.isfinite(value) else None

    def _write_history(self) -> None:
        step, value = self.best or (None, None)
        history = {
            "metric": self._setting,
            "step": step,
            "value": value,
            "evaluations": list(self._evaluations.items()),
            "stopped_early": self.should_stop,
        }
        write_text_atomic(self._run_dir / HISTORY, json.dumps(history, indent=2, allow_nan=False) + "\n")


def parse_best_metric(setting: str) -> tuple[str, bool]:
    """Splits `config.train.best_metric` into the metric's name and whether lower is better (a leading `-`)."""
    return setting.removeprefix("-"), setting.startswith("-")
