"""Draws one packed row: its sound, who owns which column, and what the attention may look at."""

import colorsys
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
from slap_jax.report.theme import Theme, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MASK_PIXELS = 768  # a picture of the whole mask is no finer than this
CLOSE_UP_COLUMNS = 18


@dataclasses.dataclass(frozen=True)
class PackedRow:
    """A single row of real clips and what is drawn of it.

    Attributes:
        batch: one row.
        clips: the clips of the slots, in slot order; each has `captions` and `waveform`.
        captions: the caption that each slot holds.
        log_mel: [C * 16, 64], natural log; the floor where nothing sounds.
        audio: the audio settings.
        window: tokens to each side that local attention sees.
    """

    batch: PackedBatch
    clips: list[Any]
    captions: list[str]
    log_mel: Float[np.ndarray, "frames mels"]
    audio: ConfigDict
    window: int

    @property
    def segments(self) -> Int[np.ndarray, " C"]:
        """Owner of each column, 0 for padding."""
        return np.asarray(self.batch.audio_segments[0])

    @property
    def column_seconds(self) -> float:
        """Duration of a column."""
        return samples_per_column(self.audio) / self.audio.sample_rate

    def span(self, slot: int) -> tuple[float, float]:
        """Start and end of a slot's columns in seconds from the start of the row."""
        owned = np.flatnonzero(self.segments == slot + 1)
        return float(owned[0]) * self.column_seconds, float(owned[-1] + 1) * self.column_seconds


def example_row(clips: Sequence[Any], tokenizer: Any, config: ConfigDict, seed: int = 0) -> PackedRow | None:
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
    return PackedRow(
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


def slot_colour(slot: int) -> tuple[float, float, float]:
    """A quiet colour per slot; neighbours are far apart on the colour wheel."""
    hue = (0.56 + slot * 0.381966) % 1.0
    return colorsys.hls_to_rgb(hue, 0.56 if slot % 2 else 0.50, 0.42)


def slot_colour_hex(slot: int) -> str:
    """The same colour for the style sheet."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in slot_colour(slot))


def row_figure(row: PackedRow, theme: Theme, with_captions: bool) -> "Figure":
    """Draws waveform, log-mel and ownership of a row over time. Call within `drawing(theme)`.

    Args:
        row: what to draw.
        theme: colours.
        with_captions: write the captions below; the page has them as a list instead.
    """
    count = len(row.clips)
    lines = -(-count // 2) if with_captions else 0
    figure = new_figure(11.0, 3.1 + 0.17 * lines)
    ratios = [1.0, 1.5, 0.42] + ([0.17 * lines * 1.05] if lines else [])
    panels = list(figure.subplots(len(ratios), 1, height_ratios=ratios))
    wave, mel, owner = panels[:3]
    seconds = len(row.segments) * row.column_seconds
    _draw_waveform(wave, row)
    mel.imshow(row.log_mel.T, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, row.audio.mels))
    mel.set_ylabel("mel bin")
    for slot in range(count):
        start, end = row.span(slot)
        owner.barh(0, end - start, left=start, height=1.0, color=slot_colour(slot), linewidth=0)
        if end - start > 0.008 * seconds:
            owner.text((start + end) / 2, 0, str(slot + 1), ha="center", va="center", fontsize=7.5, color="#ffffff")
        for axes in (wave, mel):
            axes.axvline(end, color=theme.muted, linewidth=0.6, alpha=0.8)
    used = float((row.segments != PADDING_SEGMENT).sum()) * row.column_seconds
    owner.barh(0, seconds - used, left=used, height=1.0, color=theme.line, linewidth=0)
    if seconds - used > 0.08 * seconds:
        owner.text((used + seconds) / 2, 0, "padding", ha="center", va="center", fontsize=7.5, color=theme.muted)
    for axes in (wave, mel, owner):
        axes.set_xlim(0, seconds)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    for axes in (wave, mel):
        axes.set_xticks([])
        axes.set_yticks([])
    wave.set_ylabel("waveform")
    owner.set_yticks([])
    owner.set_ylabel("owner")
    owner.set_xlabel("seconds in the row")
    if with_captions:
        _write_captions(panels[3], row, theme)
    return figure


def _draw_waveform(axes: "Axes", row: PackedRow, points: int = 1_600) -> None:
    samples = np.asarray(row.batch.waveform[0], np.float64)
    samples /= max(1.0, np.abs(samples).max())
    step = max(1, len(samples) // points)
    parts = samples[: len(samples) // step * step].reshape(-1, step)
    low, high = parts.min(axis=1), parts.max(axis=1)
    time = (np.arange(len(parts)) + 0.5) * step / row.audio.sample_rate
    for slot in range(len(row.clips)):
        start, end = row.span(slot)
        inside = (time >= start) & (time < end)
        axes.fill_between(time[inside], low[inside], high[inside], color=slot_colour(slot), linewidth=0.5)
    axes.set_ylim(-1.05, 1.05)


def _write_captions(axes: "Axes", row: PackedRow, theme: Theme) -> None:
    axes.axis("off")
    lines = -(-len(row.clips) // 2)
    for slot, caption in enumerate(row.captions):
        across, down = divmod(slot, lines)
        height = 1 - (down + 0.5) / lines
        text = caption if len(caption) <= 78 else caption[:77] + "…"
        axes.text(0.5 * across, height, f"{slot + 1}", fontsize=7.5, va="center", ha="right", color=slot_colour(slot))
        axes.text(0.5 * across + 0.008, height, text, fontsize=7.5, va="center", color=theme.ink)


def _coloured(
    allowed: Bool[np.ndarray, "n n"], segments: Int[np.ndarray, " n"], padding: tuple[float, float, float]
) -> Float[np.ndarray, "n n 4"]:
    """Paints allowed pairs in the colour of their segment and leaves the others transparent."""
    palette = np.array([padding] + [slot_colour(slot) for slot in range(int(segments.max(initial=0)))])
    picture = np.zeros((*allowed.shape, 4))
    picture[..., :3] = palette[segments][:, None]
    picture[..., 3] = np.where(allowed, np.where(segments == PADDING_SEGMENT, 0.35, 1.0)[:, None], 0.0)
    return picture


def draw_mask(axes: "Axes", row: PackedRow, kind: str, theme: Theme) -> None:
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


def mask_figure(row: PackedRow, kinds: Sequence[tuple[str, str]], theme: Theme) -> "Figure":
    """Draws masks side by side, each under its title. Call within `drawing(theme)`."""
    figure = new_figure(3.5 * len(kinds), 3.7 if any(title for _, title in kinds) else 3.3)
    for axes, (kind, title) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        draw_mask(axes, row, kind, theme)
        if title:
            axes.set_title(textwrap.fill(title, 48), fontsize=8)
    return figure
