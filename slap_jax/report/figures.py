"""The figures of the report, drawn with matplotlib: similarity and confusion matrices, packed row, attention masks.

Functions that take a theme are called within `drawing(theme)`.
"""

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from slap_jax.batch import PADDING_SEGMENT, PackedBatch
from slap_jax.config.defaults import columns_of, patches_per_column, samples_per_column
from slap_jax.data.packing import Clip, pack_rows
from slap_jax.drawing.packed_row import PackedRow, slot_colour
from slap_jax.drawing.theme import Theme, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HIT, MISS = "#6fd08c", "#ff7d5c"  # of the best clip for a caption

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


def similarity_figure(
    similarity: Float[np.ndarray, "n n"],
    labels: Sequence[str],
    groups: Sequence[str],
    relevant: Bool[np.ndarray, "n n"],
    theme: Theme,
) -> "Figure":
    """Draws cosine similarities of captions (rows) and clips (columns), with the best clip for each caption.

    Args:
        similarity: text to audio; the diagonal holds the true pairs.
        labels: one short caption per row.
        groups: a name per row; a line separates groups.
        relevant: whether the clip of the column is right for the caption of the row.
        theme: colours.
    """
    from matplotlib.patches import Rectangle

    count = len(labels)
    figure = new_figure(9.2, 0.175 * count + 1.2)
    axes = figure.subplots()
    low, high = np.percentile(similarity, 2), float(similarity.max())
    image = axes.imshow(similarity, cmap="cividis", vmin=low, vmax=high, aspect="equal")
    for row in range(count):
        box = Rectangle((row - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#ffffff", linewidth=0.9)
        axes.add_patch(box)
    for row, column in enumerate(similarity.argmax(axis=1)):
        # Right and wrong differ in shape as well as in colour; the dark rim keeps both visible on bright cells.
        marker, face = ("o", HIT) if relevant[row, column] else ("X", MISS)
        axes.plot(column, row, marker=marker, markersize=6.0, markerfacecolor=face, markeredgecolor="#101010", mew=0.6)
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


def confusion_figure(counts: Int[np.ndarray, "T Y"], true: Sequence[str], predicted: Sequence[str]) -> "Figure":
    """Draws how many clips of each true class (row) were predicted as each class (column); colours are per row."""
    width, height = 1.8 + 0.42 * len(predicted), 1.2 + 0.32 * len(true)
    figure = new_figure(max(3.2, width), max(2.4, height))
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "#ffffff" if share[row, column] > 0.6 else "#1f2529"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7.5, color=colour)
    axes.set_yticks(range(len(true)), list(true), fontsize=8)
    axes.set_xticks(range(len(predicted)), list(predicted), fontsize=8, rotation=45, ha="right")
    axes.tick_params(length=0)
    axes.set_ylabel("true class")
    axes.set_xlabel("predicted class")
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


def file_name(name: str) -> str:
    """Returns the name of an evaluation set as a part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
