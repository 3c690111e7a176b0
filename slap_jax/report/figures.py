"""Curves of a run and the audio-text similarity matrix, drawn with matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from slap_jax.drawing.theme import PRINT, Theme, drawing, new_figure
from slap_jax.report.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# (metric, title, note): what each panel shows. A panel whose metric was not logged is left out.
LOSS_PANELS = (
    ("loss/contrastive", "contrastive", "audio against text"),
    ("loss/distillation", "self-distillation", "masked patches against the teacher"),
    ("loss/captioning", "captioning", "per token"),
    ("loss/total", "total", "weighted sum"),
)
OPTIMISATION_PANELS = (
    ("learning_rate", "learning rate", ""),
    ("gradient_norm", "gradient norm", "before clipping"),
    ("temperature", "contrastive temperature", "learnt"),
    ("embedding_spread", "audio embedding spread", "1 is spread out, 0 collapsed"),
    ("text_embedding_spread", "text embedding spread", "1 is spread out, 0 collapsed"),
    ("prototype_entropy", "prototype entropy", "of its maximum; 0 is collapsed"),
    ("prototype_top_usage", "most used prototype", "share of tokens; 1 is collapsed"),
    ("speed/audio_seconds_per_s", "throughput", "seconds of audio per second"),
    ("packing_fill", "packing fill", "share of columns with a clip"),
    ("speed/mfu", "model FLOPs utilisation", "share of the device's peak"),
)
EXACT = ("learning_rate", "temperature")  # nothing to smooth
SHARES = ("embedding_spread", "text_embedding_spread", "prototype_entropy")
EVALUATION = ("/t2a_r1", "/a2t_r1", "/accuracy")  # ends of the names of metrics that evaluation in the loop writes


def smooth(values: Float[np.ndarray, " n"], share: float = 0.04) -> Float[np.ndarray, " n"]:
    """Running mean that a reader's eye would draw: a window around each value, over gaps.

    At the start the window is narrower, for the first values fall steeply; at the end it is only cut off.

    Args:
        values: may hold NaN.
        share: half width of the window as a share of the length; at least one point on each side.
    """
    half = max(1, round(share * len(values)))
    valid = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(valid, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(valid)])
    index = np.arange(len(values))
    reach = np.minimum(index, half)
    low, high = index - reach, np.minimum(index + reach + 1, len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums[high] - sums[low]) / (counts[high] - counts[low])


def has_curve(run: RunRecord, metric: str) -> bool:
    """Whether the metric was logged with at least two finite values."""
    return int(np.isfinite(run.series(metric)[1]).sum()) >= 2


def loss_panels(run: RunRecord) -> list[tuple[str, str, str]]:
    """The objectives that ran; the total only where it differs from the single objective."""
    panels = [panel for panel in LOSS_PANELS if has_curve(run, panel[0])]
    return panels if len(panels) != 2 else [panel for panel in panels if panel[0] != "loss/total"] or panels


def draw_curve(axes: "Axes", run: RunRecord, metric: str, theme: Theme) -> None:
    """Draws one metric over steps: every logged value light, the running mean strong."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    steps, values = run.series(metric)
    colour = theme.series(metric)
    if metric in EXACT or metric.endswith(EVALUATION):
        marker = "o" if metric.endswith(EVALUATION) else None
        axes.plot(steps, values, color=colour, linewidth=1.7, marker=marker, markersize=3.5)
    else:
        axes.plot(steps, values, color=colour, alpha=0.28, linewidth=0.9)
        axes.plot(steps, smooth(values), color=colour, linewidth=1.7, solid_capstyle="round")
    axes.set_xlim(steps[0], steps[-1] if steps[-1] > steps[0] else steps[0] + 1)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=5)
    low, high = float(np.nanmin(values)), float(np.nanpercentile(values, 99.5))
    if metric == "gradient_norm" and low > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        return
    axes.locator_params(axis="y", nbins=5)
    axes.ticklabel_format(axis="y", scilimits=(-2, 5), useMathText=True)
    if metric == "packing_fill":
        axes.set_ylim(min(0.9, low) - 0.02, 1.005)
    elif metric in SHARES:
        axes.set_ylim(0, 1.03)
    elif low >= 0:
        axes.set_ylim(0, high * 1.08 or 1.0)


def closing_value(run: RunRecord, metric: str) -> float:
    """What a panel states as its number: the mean of the last tenth, or the last value where nothing fluctuates."""
    values = run.series(metric)[1]
    values = values[np.isfinite(values)]
    tail = 1 if metric in EXACT or metric.endswith(EVALUATION) else max(1, len(values) // 10)
    return float(values[-tail:].mean())


def curve_figure(run: RunRecord, metric: str, theme: Theme) -> "Figure":
    """One panel of its own, for the page. Call within `drawing(theme)`."""
    figure = new_figure(3.3, 1.75)
    draw_curve(figure.subplots(), run, metric, theme)
    return figure


def save_curves(run: RunRecord, panels: Sequence[tuple[str, str, str]], path: Path) -> None:
    """Writes panels side by side, at most four in a row, as one PNG."""
    if not panels:
        return
    across = min(len(panels), 4)
    down = -(-len(panels) // across)
    with drawing(PRINT):
        figure = new_figure(3.1 * across, 2.2 * down)
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for axes, (metric, title, note) in zip(grid, panels, strict=False):
            draw_curve(axes, run, metric, PRINT)
            axes.set_title(f"{title}\n{note}" if note else title, fontsize=8.5)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[max(0, len(panels) - across) : len(panels)]:
            axes.set_xlabel("step")
        figure.savefig(path, dpi=160)


def similarity_figure(
    similarity: Float[np.ndarray, "n n"],
    labels: Sequence[str],
    groups: Sequence[str],
    relevant: Bool[np.ndarray, "n n"],
    theme: Theme,
) -> "Figure":
    """Draws cosine similarities of captions (rows) and clips (columns). Call within `drawing(theme)`.

    Args:
        similarity: text to audio; the diagonal holds the true pairs.
        labels: one caption per row, short enough to read.
        groups: a name per row; equal neighbours are set apart by a line from the others.
        relevant: whether the clip of the column is right for the caption of the row.
        theme: colours.
    """
    count = len(labels)
    figure = new_figure(9.2, 0.175 * count + 1.2)
    axes = figure.subplots()
    low, high = np.percentile(similarity, 2), float(similarity.max())
    image = axes.imshow(similarity, cmap="cividis", vmin=low, vmax=high, aspect="equal")
    for row, column in enumerate(similarity.argmax(axis=1)):
        face = "#ffffff" if relevant[row, column] else "none"
        axes.plot(column, row, marker="o", markersize=4.0, markerfacecolor=face, markeredgecolor="#ffffff", mew=1.0)
        axes.plot(column, row, marker="o", markersize=5.6, markerfacecolor="none", markeredgecolor="#000000", mew=0.4)
    starts = [row for row in range(count) if row == 0 or groups[row] != groups[row - 1]]
    for start, end in zip(starts, [*starts[1:], count], strict=True):
        if start:
            axes.axhline(start - 0.5, color="#ffffff", linewidth=0.8, alpha=0.75)
            axes.axvline(start - 0.5, color="#ffffff", linewidth=0.8, alpha=0.75)
        axes.text(count - 0.2, (start + end - 1) / 2, groups[start], fontsize=7.5, color=theme.muted, va="center")
    axes.set_yticks(range(count), [f"{label}  {row + 1}" for row, label in enumerate(labels)], fontsize=7.5)
    axes.set_xticks(range(count), [str(column + 1) for column in range(count)], fontsize=6.5)
    axes.tick_params(length=0, labelcolor=theme.ink)
    axes.set_xlabel("clip (numbered like its caption)", fontsize=7.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.45, pad=0.02, aspect=32)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.set_label("cosine similarity", fontsize=7.5)
    bar.ax.tick_params(labelsize=7, length=2, labelcolor=theme.muted)
    return figure
