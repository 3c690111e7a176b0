"""Plots the losses and the retrieval of several runs against the hours of audio they were trained on.

python benchmarks/compare_runs.py runs/corpus/contrastive runs/corpus/all --output docs/images/corpus_runs.png
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from slap_jax.evaluation.evaluate import scalars
from slap_jax.training.metrics import read_metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ("#1f6699", "#c0572b", "#3f7d3f", "#7a5ca8")
PANELS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("contrastive loss", lambda name: name == "loss/contrastive"),
    ("self-distillation loss", lambda name: name == "loss/distillation"),
    ("captioning loss, nats per token", lambda name: name == "loss/captioning"),
    ("text to audio R@1, held out", lambda name: name.startswith("retrieval/") and name.endswith("/t2a_r1")),
)


def curve(lines: list[dict[str, Any]], selects: Callable[[str], bool]) -> tuple[list[float], list[float]]:
    """Returns hours of audio, estimated from the mean over the logged steps, and values of the selected metrics."""
    seconds = [line["audio_seconds"] for line in lines if "audio_seconds" in line]
    hours_per_step = float(np.mean(seconds)) / 3_600
    points = [
        (line["step"] * hours_per_step, value)
        for line in lines
        for name, value in line.items()
        if selects(name) and value is not None
    ]
    return [hours for hours, _ in points], [value for _, value in points]


def final_scores(run: Path) -> list[dict[str, Any]]:
    """Returns the results that `slap evaluate` wrote after training, as one more line of metrics."""
    if not (run / "evaluation.json").exists():
        return []
    results = json.loads((run / "evaluation.json").read_text())
    step = results.pop("model")["step"]
    return [{"step": step, **scalars(results)}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 3.4), layout="constrained")
    for run, colour in zip(options.runs, COLOURS, strict=False):
        lines = read_metrics(run / "metrics.jsonl") + final_scores(run)
        for axis, (title, selects) in zip(axes, PANELS, strict=True):
            hours, values = curve(lines, selects)
            marker = "o" if "R@1" in title else None
            if not values:  # this run does not have the objective
                continue
            axis.plot(hours, values, color=colour, label=run.name, linewidth=1.3, marker=marker, markersize=4)
    for axis, (title, _) in zip(axes, PANELS, strict=True):
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("hours of audio, with repetition", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(y=0.08)
        axis.grid(alpha=0.25)
    axes[0].legend(frameon=False, fontsize=9)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=110)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
