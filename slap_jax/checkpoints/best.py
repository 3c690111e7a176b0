"""The best checkpoint of a run by one metric of its evaluations, and early stopping.

Small evaluation sets give equal values often. Of steps with equal values, the one with the lower held-out loss is
better, then the later one. For patience, only a better value or an equal one with a lower loss is an improvement:
otherwise a metric that stays where it is would never end the run.

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
        best_loss: its held-out loss; None if there is none.
        directory: `RUN/best`.
    """

    def __init__(
        self, config: ConfigDict, run_dir: Path, restored_step: int, loss_name: str = "", enabled: bool = True
    ):
        """Opens `RUN/best` and reads what earlier processes of the run evaluated.

        Args:
            config: config of the run.
            run_dir: the run directory.
            restored_step: step the run resumes from, 0 for a new run; evaluations of later steps are dropped because
                they run again.
            loss_name: name of the held-out loss that decides between equal values; "" for none.
            enabled: False in all processes but the first. They take part in saving but write no other file.

        Raises:
            CheckpointError: `RUN/best.json` is damaged.
        """
        self._setting = config.train.best_metric
        self._name, self._lower_is_better = parse_best_metric(self._setting)
        self._loss_name, self._patience = loss_name, config.train.patience
        self._run_dir, self.directory = run_dir, run_dir / DIRECTORY
        self._enabled = enabled
        self._checkpoints = Checkpoints(self.directory / "checkpoints", keep=1, every=1, handle_signals=False)
        self._evaluations: dict[int, float | None] = {}  # step -> value; None if it was not finite
        self._losses: dict[int, float | None] = {}  # step -> held-out loss
        self._improved_at = 0  # the last step that was an improvement for patience
        self.best: tuple[int, float] | None = None
        self.best_loss: float | None = None
        if restored_step:
            self._resume(restored_step)
        if enabled:
            write_text_atomic(self.directory / "config.json", config.to_json_best_effort(indent=2) + "\n")

    @property
    def should_stop(self) -> bool:
        """Whether the last `config.train.patience` evaluations brought no improvement; False if patience is 0."""
        if self._patience == 0 or self.best is None:
            return False
        return sum(step > self._improved_at for step in self._evaluations) >= self._patience

    def update(
        self, step: int, metrics: Mapping[str, float], state: Any, data_state: dict[str, Any], meta: dict[str, Any]
    ) -> None:
        """Records an evaluation and saves the step if it is the best so far.

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
        value, loss = _finite(metrics[self._name]), _finite(metrics.get(self._loss_name))
        self._evaluations[step], self._losses[step] = value, loss
        improves = value is not None and self._improves(value, loss)
        if value is not None and (improves or self._is_later_tie(step, value, loss)):
            self._improved_at = step if improves else self._improved_at
            choice = {"loss": loss, "improved_at": self._improved_at}
            # Orbax keeps the newest step. After a resume the old best may be that of a later step, or of this one.
            self._checkpoints.delete_from(step)
            meta = {**meta, "best": {self._name: value}, "best_choice": choice}
            self._checkpoints.save(step, state, data_state, meta, force=True)
            self.best, self.best_loss = (step, value), loss
        if self._enabled:
            self._write_history()

    def describe(self) -> str:
        """Names the best step, its value and its directory; "" before the first finite value."""
        if self.best is None:
            return ""
        step, value = self.best
        loss = "" if self.best_loss is None else f" (held-out loss {self.best_loss:.4f})"
        return f"best step {step}: {self._name} {value:.4f}{loss}, in {self.directory}"

    def close(self) -> None:
        """Waits for the last save."""
        self._checkpoints.close()

    def _improves(self, value: float, loss: float | None) -> bool:
        if self.best is None:
            return True
        _, best = self.best
        if value != best:
            return value < best if self._lower_is_better else value > best
        return loss is not None and (self.best_loss is None or loss < self.best_loss)

    def _is_later_tie(self, step: int, value: float, loss: float | None) -> bool:
        assert self.best is not None
        best_step, best = self.best
        return step > best_step and value == best and loss == self.best_loss

    def _resume(self, restored_step: int) -> None:
        path = self._run_dir / HISTORY
        try:
            history: Any = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"metric": ""}
            if history["metric"] != self._setting:
                return
            self._evaluations, self._losses = (
                {step: _finite(value) for step, value in history.get(key, []) if step <= restored_step}
                for key in ("evaluations", "held_out_losses")
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error!r}); restore it, or delete it to start the choice of the best step again"
            ) from None
        step = self._checkpoints.latest()
        if step is not None:
            meta = restore_meta(self._checkpoints.directory, step)
            value, choice = _finite(meta["best"][self._name]), meta.get("best_choice", {})
            self.best = None if value is None else (step, value)
            self.best_loss = choice.get("loss")
            self._improved_at = choice.get("improved_at", step)

    def _write_history(self) -> None:
        step, value = self.best or (None, None)
        history = {
            "metric": self._setting,
            "step": step,
            "value": value,
            "held_out_loss": self.best_loss,
            "evaluations": list(self._evaluations.items()),
            "held_out_losses": list(self._losses.items()),
            "stopped_early": self.should_stop,
        }
        write_text_atomic(self._run_dir / HISTORY, json.dumps(history, indent=2, allow_nan=False) + "\n")


def parse_best_metric(setting: str) -> tuple[str, bool]:
    """Splits `config.train.best_metric` into the metric's name and whether lower is better (a leading `-`)."""
    return setting.removeprefix("-"), setting.startswith("-")


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
