"""The best step of a run by a metric of its evaluations, kept as a run directory of its own; and when to stop."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from slap_jax.checkpoints.run import Checkpoints
from slap_jax.config.rules import ConfigError

DIRECTORY = "best"  # of a run directory; every verb that takes a run takes it too
HISTORY = "best.json"


class BestCheckpoint:
    """Follows `config.train.best_metric`; without one it does nothing.

    Attributes:
        wanted: whether there is a metric to follow.
        stop: whether `config.train.patience` evaluations in a row brought nothing better.
    """

    def __init__(self, config: ConfigDict, run_dir: Path, restored_step: int, enabled: bool = True):
        """Reads what the run has found so far.

        Args:
            config: of the run.
            run_dir: `best/` in it becomes a run directory that holds the best checkpoint.
            restored_step: evaluations after it are forgotten, they come again.
            enabled: False in all processes but the first: they take part in saving, but write nothing else.
        """
        metric = config.train.best_metric
        self.wanted, self._name, self._sign = metric != "", metric.removeprefix("-"), -1 if metric[:1] == "-" else 1
        self._patience, self._run_dir, self._enabled = config.train.patience, run_dir, enabled
        self._values: list[tuple[int, float]] = []
        self._checkpoints: Checkpoints | None = None
        if not self.wanted:
            self.stop = False
            return
        if restored_step and (run_dir / HISTORY).is_file():
            found = json.loads((run_dir / HISTORY).read_text(encoding="utf-8"))
            if found["metric"] == metric:
                self._values = [(step, value) for step, value in found["evaluations"] if step <= restored_step]
        self._checkpoints = Checkpoints(run_dir / DIRECTORY / "checkpoints", keep=1, every=1, handle_signals=False)
        self._metric = metric
        if enabled:
            (run_dir / DIRECTORY / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")
        self.stop = self._patience_is_out()

    @property
    def best(self) -> tuple[int, float] | None:
        """The first step with the best value, and the value; None before the first evaluation."""
        return max(self._values, key=lambda pair: (self._sign * pair[1], -pair[0]), default=None)

    def update(
        self, step: int, metrics: Mapping[str, float], state: Any, data_state: dict[str, Any], meta: dict[str, Any]
    ) -> None:
        """Takes the results of an evaluation, and saves the step if it is the best one so far.

        Args:
            step: that was evaluated.
            metrics: name -> value.
            state: of training, as `Checkpoints.save` takes it.
            data_state: likewise.
            meta: likewise.

        Raises:
            ConfigError: the evaluation has no such metric.
        """
        if self._checkpoints is None:
            return
        value = metrics.get(self._name)
        if value is None:
            there = ", ".join(sorted(metrics))
            raise ConfigError(f"config.train.best_metric is {self._metric!r}, but the evaluation has only: {there}")
        self._values.append((step, float(value) if math.isfinite(value) else -self._sign * math.inf))
        if self.best == self._values[-1]:
            self._checkpoints.save(step, state, data_state, {**meta, "best": {self._name: float(value)}}, force=True)
        self.stop = self._patience_is_out()
        if self._enabled:
            step_of_best, best_value = self.best or (step, value)
            history = {
                "metric": self._metric,
                "step": step_of_best,
                "value": best_value,
                "evaluations": self._values,
                "stopped_early": self.stop,
            }
            partial = self._run_dir / f".{HISTORY}.partial"
            partial.write_text(json.dumps(history, indent=2) + "\n", encoding="utf-8")
            os.replace(partial, self._run_dir / HISTORY)

    def describe(self) -> str:
        """Says which step is the best one and where it is; "" before the first evaluation."""
        if self.best is None:
            return ""
        step, value = self.best
        return f"best step {step}: {self._name} {value:.4f}, in {self._run_dir / DIRECTORY}"

    def close(self) -> None:
        """Waits for the last save."""
        if self._checkpoints is not None:
            self._checkpoints.close()

    def _patience_is_out(self) -> bool:
        if self._patience == 0 or self.best is None:
            return False
        return len(self._values) - 1 - self._values.index(self.best) >= self._patience
