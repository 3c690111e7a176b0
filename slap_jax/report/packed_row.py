"""The packed row that the report shows: real clips of the run, and what the attention may look at."""

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from slap_jax.batch import PADDING_SEGMENT, PackedBatch
from slap_jax.config import columns_of, patches_per_column, samples_per_column
from slap_jax.data.packing import Clip, pack_rows
from slap_jax.drawing.packed_row import PackedRow, slot_colour
from slap_jax.drawing.theme import Theme, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MASK_PIXELS = 768  # a picture of the whole mask is no finer than this
CLOSE_UP_COLUMNS = 18


@dataclasses.dataclass(frozen=True)
class ExampleRow(PackedRow):
    """A single row of real clips.

    Attributes:
        clips: the clips of the slots, in slot order; each has `captions` and `waveform`.
        window: tokens to each side that local attention sees.
    """

    clips: list[Any]
    window: int


def example_row(clips: Sequence[Any], tokenizer: Any, config: ConfigDict, seed: int = 0) -> ExampleRow | None:
    """Packs real clips as training does and computes their log-mel as the model does.

    Args:
        clips: evaluation clips with `id`, `waveform` (int16), `captions` and `key`.
        tokenizer: has `encode(text, max_tokens)`.
        config: of the run; a row is as long as in training.
        seed: of the order in which clips are packed.

    Returns:
        The fullest row among those packed; None if there is no clip that fits a row.
    """
    import jax.numpy as jnp

    from slap_jax.models.frontend import log_mel

    data, audio = config.data, config.audio
    limit = min(data.columns, columns_of(data.max_seconds, audio)) * samples_per_column(audio)
    order = np.random.default_rng(seed).permutation(len(clips))
    fitting = [clips[index] for index in order if 0 < len(clips[index].waveform) <= limit and clips[index].captions]
    # Enough for a few rows: first-fit fills the first ones best.
    chosen = fitting[: 4 * data.slots]
    if not chosen:
        return None
    packed = [
        Clip(clip.waveform, tokenizer.encode(clip.captions[0], data.max_caption_tokens), clip.key) for clip in chosen
    ]
    rows, placement = pack_rows(packed, data.columns, data.slots, data.text_tokens, samples_per_column(audio))
    filled = np.asarray(rows.audio_segments != PADDING_SEGMENT).sum(axis=1)
    best = int(np.argmax(filled))
    members = sorted((slot, index) for index, (row, slot) in enumerate(placement) if row == best)
    fields = {field.name: np.asarray(getattr(rows, field.name))[best : best + 1] for field in dataclasses.fields(rows)}
    batch = PackedBatch(**fields)
    mel = np.asarray(log_mel(jnp.asarray(batch.waveform), jnp.asarray(batch.audio_segments), audio))[0]
    return ExampleRow(
        batch=batch,
        clips=[chosen[index] for _, index in members],
        captions=[chosen[index].captions[0] for _, index in members],
        log_mel=mel.reshape(-1, mel.shape[-1]),
        audio=audio,
        window=config.model.audio_encoder.local_window,
    )


def attention_mask(segments: Int[np.ndarray, " L"], window: int | None) -> Bool[np.ndarray, "L L"]:
    """Which token may attend to which, from the very function that the dense reference attention masks with."""
    import jax.numpy as jnp

    from slap_jax.models.attention.dense import allowed

    owners, index = jnp.asarray(segments), jnp.arange(len(segments))
    return np.asarray(allowed(owners, owners, index, index, window, causal=False))


def _coloured(
    allowed: Bool[np.ndarray, "n n"], segments: Int[np.ndarray, " n"], padding: tuple[float, float, float]
) -> Float[np.ndarray, "n n 4"]:
    """Paints allowed pairs in the colour of their segment and leaves the others transparent."""
    from matplotlib.colors import to_rgb

    palette = np.array([padding] + [to_rgb(slot_colour(slot)) for slot in range(int(segments.max(initial=0)))])
    picture = np.zeros((*allowed.shape, 4))
    picture[..., :3] = palette[segments][:, None]
    picture[..., 3] = np.where(allowed, np.where(segments == PADDING_SEGMENT, 0.35, 1.0)[:, None], 0.0)
    return picture


def draw_mask(axes: "Axes", row: ExampleRow, kind: str, theme: Theme) -> None:
    """Draws a mask of the row: queries downwards, keys to the right.

    Args:
        axes: where.
        row: whose mask.
        kind: "global" or "local" for the whole row, "close-up" for the local one around a border of two clips.
        theme: colours.
    """
    per_column = patches_per_column(row.audio)
    segments = np.repeat(row.segments, per_column)
    first, size = 0, len(segments)
    if kind == "close-up":
        borders = np.flatnonzero(np.diff(row.segments)) + 1
        centre = _widest_border(row.segments, borders) if len(borders) else CLOSE_UP_COLUMNS // 2
        start = max(0, min(centre - CLOSE_UP_COLUMNS // 2, len(row.segments) - CLOSE_UP_COLUMNS))
        first, size = start * per_column, min(CLOSE_UP_COLUMNS * per_column, len(segments))
    part = segments[first : first + size]
    allowed = attention_mask(part, None if kind == "global" else row.window)
    step = max(1, -(-len(part) // MASK_PIXELS))
    if step > 1:  # a pixel is lit if any pair below it is allowed
        edges = np.arange(0, len(part), step)
        allowed = np.logical_or.reduceat(np.logical_or.reduceat(allowed, edges, axis=0), edges, axis=1)
        part = part[edges]
    from matplotlib.colors import to_rgb

    picture = _coloured(allowed, part, to_rgb("#8d959b"))
    axes.imshow(picture, extent=(first, first + size, first + size, first), aspect="equal")
    axes.set_xlabel("key token")
    axes.set_ylabel("query token")
    axes.locator_params(nbins=5)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(theme.line)


def _widest_border(segments: Int[np.ndarray, " C"], borders: Int[np.ndarray, " n"]) -> int:
    """The border whose shorter neighbour is longest: there the window shows best."""
    lengths = np.bincount(segments)
    shorter = np.minimum(lengths[segments[borders - 1]], lengths[segments[borders]])
    return int(borders[shorter.argmax()])


MASKS = (
    ("global", "global attention: the whole clip, never its neighbour"),
    ("local", "local attention: a window inside the clip"),
    ("close-up", "local attention where two clips meet, token by token"),
)


def mask_figure(row: ExampleRow, kinds: Sequence[tuple[str, str]], theme: Theme) -> "Figure":
    """Draws masks side by side, each under its title. Call within `drawing(theme)`."""
    figure = new_figure(3.5 * len(kinds), 3.7 if any(title for _, title in kinds) else 3.3)
    for axes, (kind, title) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        draw_mask(axes, row, kind, theme)
        if title:
            axes.set_title(textwrap.fill(title, 48), fontsize=8)
    return figure
