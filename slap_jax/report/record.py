"""Reads a run directory: its config, metrics, evaluation and the shapes of its exported parameters."""

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open

from slap_jax.checkpoints.best import DIRECTORY as BEST
from slap_jax.checkpoints.model_dir import CONFIG, WEIGHTS, is_export
from slap_jax.checkpoints.read_model import EXPORT_DIRECTORY, run_config
from slap_jax.config.defaults import patches_per_column
from slap_jax.errors import UserError
from slap_jax.training.metrics import FILE_NAME as METRICS
from slap_jax.training.metrics import read_metrics
from slap_jax.training.provenance import read_provenance


class ReportError(UserError, ValueError):
    """A run directory that cannot be reported on."""


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """One training run as stored on disk.

    Attributes:
        directory: the run directory.
        config: the whole config of the run.
        metrics: the lines of `metrics.jsonl` in order.
        evaluation: contents of `evaluation.json`; empty if the run was not evaluated.
        parameters: name -> shape of every exported parameter; empty without an export.
        starts: entries of `provenance.json`, oldest first; empty if there is none.
        history: the run directory that holds the metrics: `directory`, or for its `best` the one above.
    """

    directory: Path
    config: ConfigDict
    metrics: list[dict[str, Any]]
    evaluation: dict[str, Any]
    parameters: dict[str, tuple[int, ...]]
    starts: list[dict[str, Any]]
    history: Path

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns (steps [n], values [n]) of one metric; both are empty if it was never logged.

        Values that were not finite become NaN, so that a curve shows the gap.
        """
        points = [(line["step"], line[name]) for line in self.metrics if "step" in line and name in line]
        steps = np.array([step for step, _ in points], dtype=np.float64)
        values = np.array([math.nan if value is None else value for _, value in points], dtype=np.float64)
        return steps, np.where(np.isfinite(values), values, math.nan)

    def names(self) -> list[str]:
        """Returns the names of all metrics in the order in which they first appear."""
        return list(dict.fromkeys(name for line in self.metrics for name in line))


def read_run(run_dir: Path) -> RunRecord:
    """Reads a run directory, or the directory `best` in it, whose metrics are those of the run.

    Raises:
        ExportError: the directory or its `config.json` is missing or damaged.
        ReportError: `metrics.jsonl` is missing, or it or `evaluation.json` is damaged.
    """
    if is_export(run_dir):
        raise ReportError(f"{run_dir} is an export; give the run directory, which `slap train` wrote")
    if not (run_dir / CONFIG).is_file():
        problem = f"has no {CONFIG}" if run_dir.is_dir() else "is not a directory"
        raise ReportError(f"{run_dir} {problem}; give a run directory, which `slap train` wrote")
    config = run_config(run_dir)
    evaluation_path = run_dir / "evaluation.json"
    above = run_dir.resolve().parent
    is_best = run_dir.resolve().name == BEST and not (run_dir / METRICS).is_file() and (above / METRICS).is_file()
    history = above if is_best else run_dir
    metrics_path = history / METRICS
    if not metrics_path.is_file():
        raise ReportError(f"{metrics_path} is missing: {run_dir} is not a run directory that `slap train` wrote")
    try:
        metrics = read_metrics(metrics_path)
    except ValueError as error:
        raise ReportError(str(error)) from None
    return RunRecord(
        directory=run_dir,
        config=config,
        metrics=metrics,
        evaluation=_read_evaluation(evaluation_path) if evaluation_path.is_file() else {},
        parameters=_exported_shapes(run_dir / EXPORT_DIRECTORY / WEIGHTS),
        starts=[start for start in read_provenance(history) if isinstance(start, dict)],
        history=history,
    )


def parameter_counts(parameters: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Sums parameter counts per part of the model.

    Args:
        parameters: name -> shape, with names like `model/audio_encoder/...` or
            `objectives/captioning/decoder/...`.

    Returns:
        Part -> number of parameters, in the order of the names. The part is the second component of a name.
    """
    counts: dict[str, int] = {}
    for name, shape in parameters.items():
        pieces = [piece for piece in name.split("/") if piece not in ("model", "objectives")]
        counts[pieces[0]] = counts.get(pieces[0], 0) + math.prod(shape)
    return counts


def summarise(run: RunRecord) -> dict[str, float | int | None]:
    """Computes the numbers of the headline; a number that the run did not record is None.

    Returns:
        Steps; seconds of wall time between the first and the last logged step; medians of the throughput; mean packing
        fill; seconds of audio trained on, from the mean of the logged steps; exported parameters; tokens of a row.
    """
    steps, _ = run.series("step")
    last_step = int(steps.max()) if len(steps) else 0
    per_step = _mean(run.series("audio_seconds")[1])
    return {
        "steps": last_step,
        "wall_seconds": _elapsed(run.metrics),
        "audio_seconds_per_s": _median(run.series("speed/audio_seconds_per_s")[1]),
        "clips_per_s": _median(run.series("speed/clips_per_s")[1]),
        "packing_fill": _mean(run.series("packing_fill")[1]),
        "audio_seconds": None if per_step is None else last_step * per_step,
        "parameters": sum(parameter_counts(run.parameters).values()) or None,
        "audio_tokens_per_row": run.config.data.columns * patches_per_column(run.config.audio),
    }


def _read_evaluation(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReportError(
            f"{path} is not valid JSON ({error}); delete it, or write it again with `slap evaluate`"
        ) from None
    if not isinstance(content, dict):
        raise ReportError(f"{path} holds a {type(content).__name__}, expected an object; write it with `slap evaluate`")
    return content


def _exported_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Reads the shapes of a safetensors file without its tensors."""
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError:
        return {}  # a damaged export: loading the model says so on the page


def _elapsed(metrics: list[dict[str, Any]]) -> float | None:
    """Sums the times between lines, without the gaps between two processes of the run.

    A process has no speed yet when it writes its first training line, so the gap before a line without one is the time
    in which no process ran.
    """
    lines = [line for line in metrics if "time" in line]
    if len(lines) < 2:
        return None
    gaps = [
        later["time"] - earlier["time"]
        for earlier, later in itertools.pairwise(lines)
        if "learning_rate" not in later or "speed/steps_per_s" in later
    ]
    return float(sum(gap for gap in gaps if gap > 0))


def _mean(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _median(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None
