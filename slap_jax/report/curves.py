"""The curves of a run: which metrics have a panel, what is drawn in it, and the number next to its title."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from slap_jax.drawing.theme import PRINT, drawing, new_figure
from slap_jax.report.charts import Line
from slap_jax.report.record import RunRecord

# (metric, title, note) of the well-known losses, in this order; others follow under their own name.
LOSSES = (
    ("loss/contrastive", "contrastive", "audio against text"),
    ("loss/distillation", "self-distillation", "masked patches against the teacher"),
    ("loss/captioning", "captioning", "per token"),
    ("loss/classification", "classification", "cross-entropy"),
)
TOTAL = ("loss/total", "total", "weighted sum")
OPTIMISATION = (
    ("learning_rate", "learning rate", ""),
    ("gradient_norm", "gradient norm", "before clipping"),
    ("temperature", "contrastive temperature", "learned"),
    ("embedding_spread", "audio embedding spread", "1 is spread out, 0 collapsed"),
    ("text_embedding_spread", "text embedding spread", "1 is spread out, 0 collapsed"),
    ("prototype_entropy", "prototype entropy", "of its maximum; 0 is collapsed"),
    ("prototype_top_usage", "most used prototype", "fraction of tokens; 1 is collapsed"),
    ("speed/audio_seconds_per_s", "throughput", "seconds of audio per second"),
    ("packing_fill", "packing fill", "fraction of columns with a clip"),
    ("speed/mfu", "model FLOPs utilisation", "fraction of the device's peak"),
)
_EXACT = ("learning_rate", "temperature")  # nothing to smooth
_SPANS_MAGNITUDES = ("learning_rate", "gradient_norm")  # besides the losses
_FRACTIONS = ("embedding_spread", "text_embedding_spread", "prototype_entropy")

HELD_OUT = "held_out_loss"  # HELD_OUT/SET/OBJECTIVE: a loss on an evaluation set
# (kind, score) of the metrics KIND/SET/SCORE that evaluations write -> title, and the score of guessing.
EVALUATIONS = {
    ("classification", "accuracy"): ("accuracy of the trained head", "chance"),
    ("classification", "map"): ("mAP of the trained head", "chance"),
    ("retrieval", "t2a_r1"): ("R@1, text → audio", "chance_r1"),
    ("retrieval", "a2t_r1"): ("R@1, audio → text", "a2t_chance_r1"),
    ("zero_shot", "accuracy"): ("zero-shot accuracy", "chance"),
    ("zero_shot_multi_label", "map"): ("zero-shot mAP", "chance"),
    ("caption_loss", "nats_per_token"): ("caption loss, nats per token", ""),
}


@dataclasses.dataclass(frozen=True)
class Panel:
    """A chart with its title.

    Attributes:
        metric: the metric of the first curve.
        title: distinguishes the panel from all others.
        note: what the metric means, or "".
        value: the number next to the title.
        lines: the curves.
        bounds: fixed ends of the vertical axis; None fits it to the values.
        log: whether a logarithmic axis is offered.
    """

    metric: str
    title: str
    note: str
    value: float
    lines: list[Line]
    bounds: tuple[float | None, float | None] = (None, None)
    log: bool = False


def loss_panels(run: RunRecord) -> list[Panel]:
    """Returns the losses of the objectives that ran, with held-out losses, and the total if there are several."""
    known = [entry for entry in LOSSES if has_curve(run, entry[0])]
    names = [entry[0] for entry in (*LOSSES, TOTAL)]
    others = [name for name in run.names() if name.startswith("loss/") and name not in names and has_curve(run, name)]
    known += [(name, name.removeprefix("loss/").replace("_", " "), "") for name in others]
    if len(known) != 1 and has_curve(run, TOTAL[0]):
        known.append(TOTAL)
    return [_loss_panel(run, *entry) for entry in known]


def optimisation_panels(run: RunRecord) -> list[Panel]:
    """Returns what shows whether the optimisation is healthy, and the speed."""
    panels = []
    for metric, title, note in OPTIMISATION:
        if not has_curve(run, metric):
            continue
        bounds = (0.0, 1.03) if metric in _FRACTIONS else (None, 1.0) if metric == "packing_fill" else (None, None)
        line = training_line(run, metric)
        has_log = metric in _SPANS_MAGNITUDES and _is_positive(line)
        panels.append(Panel(metric, title, note, closing_value(run, metric), [line], bounds, has_log))
    return panels


def evaluation_panels(run: RunRecord) -> list[Panel]:
    """Returns the panels of the evaluations during training; the evaluation after training is their last point."""
    panels = []
    for metric in run.names():
        kind, _, rest = metric.partition("/")
        name, _, score = rest.rpartition("/")
        if (kind, score) not in EVALUATIONS or not has_curve(run, metric):
            continue
        title, chance = EVALUATIONS[kind, score]
        steps, values = evaluation_series(run, metric)
        lines = [Line("", "total", steps, values, markers=True)]
        guessing = run.series(f"{kind}/{name}/{chance}")[1] if chance else np.zeros(0)
        if len(guessing):
            lines[0] = dataclasses.replace(lines[0], name="value")
            lines.append(Line("chance", "wrong", steps[[0, -1]], guessing[[0, 0]], dashed=True))
        bounds = (0.0, None) if chance else (None, None)
        panels.append(Panel(metric, f"{title}: {name}", "", _last(values), lines, bounds))
    return panels


def evaluation_series(run: RunRecord, metric: str) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Returns the evaluations during training, and that of `evaluation.json` if it is of a later step."""
    steps, values = run.series(metric)
    kind, _, rest = metric.partition("/")
    name, _, score = rest.rpartition("/")
    final = run.evaluation.get(kind, {}).get(name, {}).get(score)
    step = run.evaluation.get("model", {}).get("step")
    if isinstance(final, float) and isinstance(step, int) and (len(steps) == 0 or step > steps[-1]):
        return np.append(steps, float(step)), np.append(values, final)
    return steps, values


def training_line(run: RunRecord, metric: str, name: str = "", colour: str = "") -> Line:
    """Returns a metric over steps: every logged value lightly, the running mean strongly."""
    steps, values = run.series(metric)
    colour = colour or _role(metric)
    if metric in _EXACT:
        return Line(name, colour, steps, values)
    return Line(name, colour, steps, smooth(values), faint=values)


def has_curve(run: RunRecord, metric: str) -> bool:
    """Whether the metric was logged with at least two finite values."""
    return int(np.isfinite(run.series(metric)[1]).sum()) >= 2


def closing_value(run: RunRecord, metric: str) -> float:
    """Returns the number of a panel: the mean of the last tenth, or of a smooth curve the last value."""
    values = run.series(metric)[1]
    values = values[np.isfinite(values)]
    tail = 1 if metric in _EXACT else max(1, len(values) // 10)
    return float(values[-tail:].mean())


def smooth(values: Float[np.ndarray, " n"], fraction: float = 0.04) -> Float[np.ndarray, " n"]:
    """Returns the running mean over a window around each value, ignoring NaN.

    At the start the window stays symmetric and is therefore narrower, because the first values fall steeply; at the end
    it is cut off.

    Args:
        values: may hold NaN.
        fraction: half width of the window as a fraction of the length; at least one point on each side.
    """
    half = max(1, round(fraction * len(values)))
    valid = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(valid, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(valid)])
    index = np.arange(len(values))
    reach = np.minimum(index, half)
    low, high = index - reach, np.minimum(index + reach + 1, len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums[high] - sums[low]) / (counts[high] - counts[low])


def save_panels(panels: Sequence[Panel], path: Path) -> None:
    """Writes panels as one PNG, at most four to a line."""
    if not panels:
        return
    across = min(len(panels), 4)
    down = -(-len(panels) // across)
    with drawing(PRINT):
        figure = new_figure(3.1 * across, 2.2 * down)
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            for line in panel.lines:
                colour = getattr(PRINT, line.colour, PRINT.total)
                if line.faint is not None:
                    axes.plot(line.steps, line.faint, color=colour, alpha=0.28, linewidth=0.9)
                style = {"linestyle": "--" if line.dashed else "-", "marker": "o" if line.markers else None}
                axes.plot(line.steps, line.values, color=colour, linewidth=1.7, markersize=3.5, **style)
            axes.set_title(f"{panel.title}\n{panel.note}" if panel.note else panel.title, fontsize=8.5)
            axes.set_ylim(*panel.bounds)
            axes.grid(axis="y")
            axes.set_axisbelow(True)
            axes.spines["left"].set_visible(False)
            axes.locator_params(nbins=5)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[max(0, len(panels) - across) : len(panels)]:
            axes.set_xlabel("step")
        figure.savefig(path, dpi=160)


def _loss_panel(run: RunRecord, metric: str, title: str, note: str) -> Panel:
    line = training_line(run, metric)
    held_out = [
        Line(f"held out, {name}", line.colour, *run.series(one), markers=True, dashed=True)
        for one in run.names()
        if (name := _held_out_set(one, metric.removeprefix("loss/"))) and len(run.series(one)[0])
    ]
    lines = [dataclasses.replace(line, name="training"), *held_out] if held_out else [line]
    return Panel(metric, title, note, closing_value(run, metric), lines, log=_is_positive(line))


def _held_out_set(metric: str, objective: str) -> str:
    """Returns the evaluation set of a held-out loss of the objective, "" for another metric."""
    kind, _, rest = metric.partition("/")
    name, _, score = rest.rpartition("/")
    return name if (kind, score) == (HELD_OUT, objective) else ""


def _is_positive(line: Line) -> bool:
    values = line.values if line.faint is None else line.faint
    return bool(np.nanmin(values) > 0)


def _last(values: Float[np.ndarray, " n"]) -> float:
    return float(values[np.isfinite(values)][-1])


def _role(metric: str) -> str:
    objective = metric.rpartition("/")[2]
    return objective if objective in ("contrastive", "distillation", "captioning") else "total"
