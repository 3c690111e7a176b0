"""The figures of the report, drawn with matplotlib: curves, similarity matrix, packed row and attention masks.

Functions that take a theme are called within `drawing(theme)`.
"""

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from slap_jax.batch import PADDING_SEGMENT, PackedBatch
from slap_jax.config.defaults import columns_of, patches_per_column, samples_per_column
from slap_jax.data.packing import Clip, pack_rows
from slap_jax.drawing.packed_row import PackedRow, slot_colour
from slap_jax.drawing.theme import PRINT, Theme, drawing, new_figure
from slap_jax.report.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# (metric, title, note) of each panel. A panel whose metric was not logged is left out.
LOSS_PANELS = (
    ("loss/contrastive", "contrastive", "audio against text"),
    ("loss/distillation", "self-distillation", "masked patches against the teacher"),
    ("loss/captioning", "captioning", "per token"),
    ("loss/total", "total", "weighted sum"),
)
OPTIMISATION_PANELS = (
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
EXACT = ("learning_rate", "temperature")  # nothing to smooth
FRACTIONS = ("embedding_spread", "text_embedding_spread", "prototype_entropy")

# (kind, score) of the metrics KIND/SET/SCORE that evaluation in the loop writes -> title of the panel.
EVALUATIONS = {
    ("retrieval", "t2a_r1"): "R@1, text → audio",
    ("retrieval", "a2t_r1"): "R@1, audio → text",
    ("zero_shot", "accuracy"): "zero-shot accuracy",
    ("zero_shot_multi_label", "map"): "zero-shot mAP",
    ("classification", "accuracy"): "accuracy of the classification head",
    ("classification", "map"): "mAP of the classification head",
    ("caption_loss", "nats_per_token"): "caption loss, nats per token",
}

MASKS = (
    ("global", "global attention: the whole clip, never its neighbour"),
    ("local", "local attention: a window inside the clip"),
    ("close-up", "local attention where two clips meet, token by token"),
)
MASK_PIXELS = 768  # largest side of a mask's picture
CLOSE_UP_COLUMNS = 18


@dataclasses.dataclass(frozen=True)
class ExampleRow(PackedRow):
    """A single row of real clips.

    Attributes:
        clips: the clips of the slots, in slot order; each has `captions` and `waveform`.
        window: number of tokens to each side that local attention sees.
    """

    clips: list[Any]
    window: int


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


def has_curve(run: RunRecord, metric: str) -> bool:
    """Whether the metric was logged with at least two finite values."""
    return int(np.isfinite(run.series(metric)[1]).sum()) >= 2


def loss_panels(run: RunRecord) -> list[tuple[str, str, str]]:
    """Returns the panels of the objectives that ran, and of the total if there are several."""
    panels = [panel for panel in LOSS_PANELS if has_curve(run, panel[0])]
    return panels if len(panels) != 2 else [panel for panel in panels if panel[0] != "loss/total"] or panels


def evaluation_panels(run: RunRecord) -> list[tuple[str, str, str]]:
    """Returns the panels of the evaluations in the loop: the set is the title, the kind of score the note."""
    panels = []
    for metric in run.names():
        kind, _, rest = metric.partition("/")
        name, _, score = rest.rpartition("/")
        if (kind, score) in EVALUATIONS and has_curve(run, metric):
            panels.append((metric, name, EVALUATIONS[kind, score]))
    return panels


def draw_curve(axes: "Axes", run: RunRecord, metric: str, theme: Theme) -> None:
    """Draws one metric over steps: every logged value lightly, the running mean strongly."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    steps, values = run.series(metric)
    colour = theme.series(metric)
    if metric in EXACT or _is_evaluation(metric):
        marker = "o" if _is_evaluation(metric) else None
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
    elif metric in FRACTIONS:
        axes.set_ylim(0, 1.03)
    elif low >= 0:
        axes.set_ylim(0, high * 1.08 or 1.0)


def closing_value(run: RunRecord, metric: str) -> float:
    """Returns the number of a panel: the mean of the last tenth, or of a smooth curve the last value."""
    values = run.series(metric)[1]
    values = values[np.isfinite(values)]
    tail = 1 if metric in EXACT or _is_evaluation(metric) else max(1, len(values) // 10)
    return float(values[-tail:].mean())


def curve_figure(run: RunRecord, metric: str, theme: Theme) -> "Figure":
    """Draws one panel for the page."""
    figure = new_figure(3.3, 1.75)
    draw_curve(figure.subplots(), run, metric, theme)
    return figure


def save_curves(run: RunRecord, panels: Sequence[tuple[str, str, str]], path: Path) -> None:
    """Writes panels as one PNG, at most four to a line."""
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
    """Draws cosine similarities of captions (rows) and clips (columns).

    Args:
        similarity: text to audio; the diagonal holds the true pairs.
        labels: one short caption per row.
        groups: a name per row; a line separates groups.
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


def example_row(clips: Sequence[Any], tokenizer: Any, config: ConfigDict, seed: int = 0) -> ExampleRow | None:
    """Packs real clips as training does and computes their log-mel as the model does.

    Args:
        clips: evaluation clips with `id`, `waveform` (int16), `captions` and `key`.
        tokenizer: has `encode(text, max_tokens)`.
        config: config of the run; a row is as long as in training.
        seed: seed of the order in which clips are packed.

    Returns:
        The fullest of the packed rows; None if no clip fits a row.
    """
    import jax.numpy as jnp

    from slap_jax.models.frontend import log_mel

    data, audio = config.data, config.audio
    limit = min(data.columns, columns_of(data.max_seconds, audio)) * samples_per_column(audio)
    order = np.random.default_rng(seed).permutation(len(clips))
    fitting = [clips[index] for index in order if 0 < len(clips[index].waveform) <= limit and clips[index].captions]
    # Enough for a few rows: first-fit packing fills the first ones best.
    chosen = fitting[: 4 * data.slots]
    if not chosen:
        return None
    packed = [
        Clip(clip.waveform, tokenizer.encode(clip.captions[0], data.max_caption_tokens), clip.key) for clip in chosen
    ]
    rows, placement = pack_rows(packed, data.columns, data.slots, data.text_tokens, samples_per_column(audio))
    filled = np.asarray(rows.audio_segment_ids != PADDING_SEGMENT).sum(axis=1)
    best = int(np.argmax(filled))
    members = sorted((slot, index) for index, (row, slot) in enumerate(placement) if row == best)
    fields = {field.name: np.asarray(getattr(rows, field.name))[best : best + 1] for field in dataclasses.fields(rows)}
    batch = PackedBatch(**fields)
    mel = np.asarray(log_mel(jnp.asarray(batch.waveform), jnp.asarray(batch.audio_segment_ids), audio))[0]
    return ExampleRow(
        batch=batch,
        clips=[chosen[index] for _, index in members],
        captions=[chosen[index].captions[0] for _, index in members],
        log_mel=mel.reshape(-1, mel.shape[-1]),
        audio=audio,
        window=config.model.audio_encoder.local_window,
    )


def attention_mask(segments: Int[np.ndarray, " L"], window: int | None) -> Bool[np.ndarray, "L L"]:
    """Returns which token (row) may attend to which (column), by the mask of the dense reference attention."""
    import jax.numpy as jnp

    from slap_jax.models.attention.dense import segment_mask

    owners, index = jnp.asarray(segments), jnp.arange(len(segments))
    return np.asarray(segment_mask(owners, owners, index, index, window, causal=False))


def _coloured(
    allowed: Bool[np.ndarray, "n n"], segments: Int[np.ndarray, " n"], padding: tuple[float, float, float]
) -> Float[np.ndarray, "n n 4"]:
    """Paints masked-in pairs in the colour of their segment and leaves the others transparent."""
    from matplotlib.colors import to_rgb

    palette = np.array([padding] + [to_rgb(slot_colour(slot)) for slot in range(int(segments.max(initial=0)))])
    picture = np.zeros((*allowed.shape, 4))
    picture[..., :3] = palette[segments][:, None]
    picture[..., 3] = np.where(allowed, np.where(segments == PADDING_SEGMENT, 0.35, 1.0)[:, None], 0.0)
    return picture


def draw_mask(axes: "Axes", row: ExampleRow, kind: str, theme: Theme) -> None:
    """Draws an attention mask of the row: queries downwards, keys to the right.

    Args:
        axes: where to draw.
        row: the packed row.
        kind: "global" or "local" for the whole row, "close-up" for the local mask around a border of two clips.
        theme: colours.
    """
    from matplotlib.colors import to_rgb

    per_column = patches_per_column(row.audio)
    segments = np.repeat(row.audio_segment_ids, per_column)
    first, size = 0, len(segments)
    if kind == "close-up":
        borders = np.flatnonzero(np.diff(row.audio_segment_ids)) + 1
        centre = _widest_border(row.audio_segment_ids, borders) if len(borders) else CLOSE_UP_COLUMNS // 2
        start = max(0, min(centre - CLOSE_UP_COLUMNS // 2, len(row.audio_segment_ids) - CLOSE_UP_COLUMNS))
        first, size = start * per_column, min(CLOSE_UP_COLUMNS * per_column, len(segments))
    part = segments[first : first + size]
    allowed = attention_mask(part, None if kind == "global" else row.window)
    step = max(1, -(-len(part) // MASK_PIXELS))
    if step > 1:  # a pixel is coloured if the mask allows any of its pairs
        edges = np.arange(0, len(part), step)
        allowed = np.logical_or.reduceat(np.logical_or.reduceat(allowed, edges, axis=0), edges, axis=1)
        part = part[edges]
    picture = _coloured(allowed, part, to_rgb("#8d959b"))
    axes.imshow(picture, extent=(first, first + size, first + size, first), aspect="equal")
    axes.set_xlabel("key token")
    axes.set_ylabel("query token")
    axes.locator_params(nbins=5)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(theme.line)


def _widest_border(segments: Int[np.ndarray, " C"], borders: Int[np.ndarray, " n"]) -> int:
    """Returns the border whose shorter neighbour is longest: the window shows best there."""
    lengths = np.bincount(segments)
    shorter = np.minimum(lengths[segments[borders - 1]], lengths[segments[borders]])
    return int(borders[shorter.argmax()])


def mask_figure(row: ExampleRow, kinds: Sequence[tuple[str, str]], theme: Theme) -> "Figure":
    """Draws masks side by side, each under its title."""
    figure = new_figure(3.5 * len(kinds), 3.7 if any(title for _, title in kinds) else 3.3)
    for axes, (kind, title) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        draw_mask(axes, row, kind, theme)
        if title:
            axes.set_title(textwrap.fill(title, 48), fontsize=8)
    return figure


def _is_evaluation(metric: str) -> bool:
    kind, _, rest = metric.partition("/")
    return (kind, rest.rpartition("/")[2]) in EVALUATIONS
