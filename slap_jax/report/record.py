"""Reads what a run left on disk: its config, its metrics, its evaluation and the sizes of its parameters."""

import dataclasses
import itertools
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from slap_jax.config.defaults import patches_per_column
from slap_jax.errors import UserError


class ReportError(UserError, ValueError):
    """A run directory that no report can be made of; the message names the path and what to do."""


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """One training run as its files tell it.

    Attributes:
        directory: the run directory.
        config: the whole config of the run.
        metrics: lines of `metrics.jsonl` in order, without the ones that a crash cut in half.
        evaluation: contents of `evaluation.json`; empty if the run was not evaluated.
        parameters: name -> shape of every exported parameter; empty without an export.
    """

    directory: Path
    config: ConfigDict
    metrics: list[dict[str, Any]]
    evaluation: dict[str, Any]
    parameters: dict[str, tuple[int, ...]]

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns (steps [n], values [n]) of one metric; both are empty when it was never logged.

        Values that were not finite are kept as NaN, so that a curve shows the gap.
        """
        points = [(line["step"], line[name]) for line in self.metrics if "step" in line and name in line]
        steps = np.array([step for step, _ in points], dtype=np.float64)
        values = np.array([math.nan if value is None else value for _, value in points], dtype=np.float64)
        return steps, np.where(np.isfinite(values), values, math.nan)

    def names(self) -> list[str]:
        """Names of all metrics, in the order in which they first appear."""
        return list(dict.fromkeys(name for line in self.metrics for name in line))


def read_run(run_dir: Path) -> RunRecord:
    """Reads a run directory.

    Raises:
        ReportError: the directory, its `config.json` or its `metrics.jsonl` is missing or unreadable.
    """
    if not run_dir.is_dir():
        raise ReportError(f"{run_dir} is not a directory; give the run directory that `slap train` wrote")
    config_path, metrics_path = run_dir / "config.json", run_dir / "metrics.jsonl"
    for path in (config_path, metrics_path):
        if not path.is_file():
            raise ReportError(f"{path} is missing: {run_dir} is not a run directory that `slap train` wrote")
    evaluation_path = run_dir / "evaluation.json"
    return RunRecord(
        directory=run_dir,
        config=ConfigDict(_read_json(config_path)),
        metrics=_read_lines(metrics_path),
        evaluation=_read_json(evaluation_path) if evaluation_path.is_file() else {},
        parameters=_exported_shapes(run_dir / "export" / "model.safetensors"),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReportError(
            f"{path} is not valid JSON ({error}); write it again by running the step that made it"
        ) from None
    if not isinstance(content, dict):
        raise ReportError(f"{path} holds a {type(content).__name__}, expected an object")
    return content


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            continue  # a process killed while writing leaves half a line
        if isinstance(content, dict):
            lines.append(content)
    return lines


def _exported_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes from the header of a safetensors file, without reading its tensors."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def parameter_counts(parameters: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Sums parameter counts per part of the model.

    Args:
        parameters: name -> shape, names like `model/audio_encoder/...` or `objectives/captioning/decoder/...`.

    Returns:
        part -> number of parameters, in the order of the names. Parts are the second component of the name.
    """
    counts: dict[str, int] = {}
    for name, shape in parameters.items():
        pieces = [piece for piece in name.split("/") if piece not in ("model", "objectives")]
        counts[pieces[0]] = counts.get(pieces[0], 0) + math.prod(shape)
    return counts


def summarise(run: RunRecord) -> dict[str, float | int | None]:
    """Computes the numbers of the headline; a number that the run did not record is None.

    Returns:
        steps; seconds of wall time between the first and the last logged step; medians of the throughput; mean packing
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


def _elapsed(metrics: list[dict[str, Any]]) -> float | None:
    """Sum of the times between lines, without the gaps in which the run stood still.

    A process writes its first training line without a speed, for it has nothing to compare with: the gap before such a
    line is the time between two processes.
    """
    lines = [line for line in metrics if "time" in line]
    if len(lines) < 2:
        return None
    resumed = ["learning_rate" in line and "speed/steps_per_s" not in line for line in lines]
    gaps = [later["time"] - earlier["time"] for earlier, later in itertools.pairwise(lines)]
    return float(sum(gap for gap, is_first in zip(gaps, resumed[1:], strict=True) if gap > 0 and not is_first))


def _mean(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _median(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None
