"""Draws one packed row: waveform, log-mel, the slot of each column and text token, and the captions."""

import dataclasses
import itertools
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from slap_jax.batch import PADDING_SEGMENT, PackedBatch
from slap_jax.config.defaults import samples_per_column
from slap_jax.drawing.theme import Theme, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Eight of the "muted" colours of Paul Tol (https://personal.sros.nl/~pault/), which remain distinct with the common
# colour-vision deficiencies, in the order that maximises the contrast between neighbours. They repeat after eight
# slots; the number in each slot identifies it.
SLOT_COLOURS = ("#332288", "#44aa99", "#999933", "#882255", "#88ccee", "#117733", "#aa4499", "#ddcc77")
_LIGHT_COLOURS = ("#44aa99", "#999933", "#88ccee", "#ddcc77")

WIDTH = 11.0  # inches
_LINE = 0.165  # inches, height of a line of a caption
_CAPTION_CHARACTERS = 80
_CAPTION_LINES = 3
_NARROW = 0.014  # the number of a slot that covers less than this fraction of the row goes above it


@dataclasses.dataclass(frozen=True)
class PackedRow:
    """A single row with everything that is drawn.

    Attributes:
        batch: one row, in NumPy.
        captions: captions of the slots that hold a clip, in slot order.
        log_mel: [C * 16, mels], natural log; the floor in padding.
        audio: `config.audio`.
    """

    batch: PackedBatch
    captions: list[str]
    log_mel: Float[np.ndarray, "frames mels"]
    audio: ConfigDict

    @property
    def audio_segment_ids(self) -> Int[np.ndarray, " C"]:
        """Slot + 1 of each column, 0 for padding."""
        return np.asarray(self.batch.audio_segment_ids[0])

    @property
    def text_segment_ids(self) -> Int[np.ndarray, " T"]:
        """Slot + 1 of each text token, 0 for padding."""
        return np.asarray(self.batch.text_segment_ids[0])

    @property
    def column_seconds(self) -> float:
        """Duration of a column in seconds."""
        return samples_per_column(self.audio) / self.audio.sample_rate

    def span(self, slot: int) -> tuple[float, float]:
        """Returns the start and end of a slot's columns in seconds from the start of the row."""
        start, end = segment_span(self.audio_segment_ids, slot)
        return start * self.column_seconds, end * self.column_seconds


def segment_span(segment_ids: Int[np.ndarray, " n"], slot: int) -> tuple[int, int]:
    """Returns the half-open range of indices that a slot owns; (0, 0) if it owns none."""
    owned = np.flatnonzero(segment_ids == slot + 1)
    return (int(owned[0]), int(owned[-1]) + 1) if len(owned) else (0, 0)


def slot_colour(slot: int) -> str:
    """Returns the colour of a slot in hexadecimal; see `SLOT_COLOURS`."""
    return SLOT_COLOURS[slot % len(SLOT_COLOURS)]


def slot_ink(slot: int) -> str:
    """Returns a colour that is readable on the colour of a slot."""
    return "#1f2529" if slot_colour(slot) in _LIGHT_COLOURS else "#ffffff"


def row_figure(row: PackedRow, theme: Theme, with_captions: bool, title: str = "") -> "Figure":
    """Draws the waveform, log-mel, slots and text of a row. Call it within `drawing(theme)`.

    Args:
        row: row to draw.
        theme: colours.
        with_captions: whether to write the captions below the row.
        title: written above the row.
    """
    blocks = _caption_blocks(row.captions) if with_captions else []
    left = _lines_of_left_half(blocks)
    lines = max(left, sum(map(len, blocks)) - left)
    heights = [0.85, 1.45, 0.42, 0.36] + ([_LINE * lines] if lines else [])
    figure = new_figure(WIDTH, sum(heights) + 1.05)
    panels = list(figure.subplots(len(heights), 1, height_ratios=heights))
    wave, mel, segments, text = panels[:4]
    seconds = len(row.audio_segment_ids) * row.column_seconds
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, color=theme.ink, parse_math=False)
    _draw_waveform(wave, row)
    mel.imshow(
        row.log_mel.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        extent=(0, seconds, 0, row.audio.mels),
        interpolation="antialiased",
    )
    mel.set_ylabel("log-mel")
    for axes in (wave, mel):
        axes.set_xlim(0, seconds)
        axes.set_xticks([])
        axes.set_yticks([])
        for slot in range(len(row.captions)):
            axes.axvline(row.span(slot)[1], color=theme.muted, linewidth=0.6, alpha=0.8)
    _draw_slots(segments, row.audio_segment_ids, row.column_seconds, theme)
    segments.set_ylabel("segment", fontsize=8)
    segments.set_xlabel("seconds in the row")
    _draw_slots(text, row.text_segment_ids, 1.0, theme)
    text.set_ylabel("text", fontsize=8)
    text.set_xlabel("text tokens in the row")
    for axes in panels[:4]:
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    figure.align_ylabels(panels[:4])
    if lines:
        _write_captions(panels[4], blocks, left, lines, theme)
    return figure


def _draw_waveform(axes: "Axes", row: PackedRow, points: int = 1_600) -> None:
    samples = np.asarray(row.batch.waveform[0], np.float64)
    samples /= max(1.0, np.abs(samples).max())
    step = max(1, len(samples) // points)
    parts = samples[: len(samples) // step * step].reshape(-1, step)
    low, high = parts.min(axis=1), parts.max(axis=1)
    time = (np.arange(len(parts)) + 0.5) * step / row.audio.sample_rate
    for slot in range(len(row.captions)):
        start, end = row.span(slot)
        inside = (time >= start) & (time < end)
        axes.fill_between(time[inside], low[inside], high[inside], color=slot_colour(slot), linewidth=0.5)
    axes.set_ylim(-1.05, 1.05)
    axes.set_ylabel("waveform")


def _draw_slots(axes: "Axes", segment_ids: Int[np.ndarray, " n"], unit: float, theme: Theme) -> None:
    """Draws a bar in the colours of the slots, with their numbers; `unit` is the width of one element on the axis."""
    end = len(segment_ids)
    narrow: list[tuple[int, float]] = []
    for slot in range(int(segment_ids.max(initial=0))):
        first, after = segment_span(segment_ids, slot)
        axes.barh(0, (after - first) * unit, left=first * unit, height=1.0, color=slot_colour(slot), linewidth=0)
        centre = (first + after) / 2 * unit
        if after - first >= _NARROW * end:
            axes.text(centre, 0, str(slot + 1), ha="center", va="center", fontsize=7.5, color=slot_ink(slot))
        elif after > first:
            narrow.append((slot, centre))
    positions = spread([centre for _, centre in narrow], _NARROW * end * unit)
    for (slot, centre), position in zip(narrow, positions, strict=True):
        axes.plot((centre, position), (0.5, 0.75), color=theme.muted, linewidth=0.5)
        axes.text(position, 0.8, str(slot + 1), ha="center", va="bottom", fontsize=6.5, color=theme.muted)
    used = int((segment_ids != PADDING_SEGMENT).sum())
    axes.barh(0, (end - used) * unit, left=used * unit, height=1.0, color=theme.line, linewidth=0)
    if end - used > 0.08 * end:
        axes.text((used + end) / 2 * unit, 0, "padding", ha="center", va="center", fontsize=7.5, color=theme.muted)
    axes.set_xlim(0, end * unit)
    axes.set_ylim(-0.5, 1.7 if narrow else 0.5)
    axes.set_yticks([])


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Moves ascending positions apart so that neighbours are at least `gap` apart; groups keep their centres."""
    groups: list[list[float]] = []  # the original positions of labels that touch
    for position in positions:
        groups.append([position])
        while len(groups) > 1 and _first(groups[-1], gap) - _last(groups[-2], gap) < gap:
            last = groups.pop()
            groups[-1] += last
    return [_first(group, gap) + index * gap for group in groups for index in range(len(group))]


def _first(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _last(group: Sequence[float], gap: float) -> float:
    return _first(group, gap) + gap * (len(group) - 1)


def _caption_blocks(captions: Sequence[str]) -> list[list[str]]:
    """Wraps each caption into lines; one with too many lines ends in an ellipsis."""
    return [
        textwrap.wrap(caption, _CAPTION_CHARACTERS, max_lines=_CAPTION_LINES, placeholder=" …") or ["(no caption)"]
        for caption in captions
    ]


def _lines_of_left_half(blocks: Sequence[Sequence[str]]) -> int:
    """Returns the number of lines in the left of two columns that are as equal as whole captions allow."""
    ends = [0, *itertools.accumulate(map(len, blocks))]
    return min(ends, key=lambda left: (max(left, ends[-1] - left), -left))


def _write_captions(axes: "Axes", blocks: Sequence[Sequence[str]], left: int, lines: int, theme: Theme) -> None:
    axes.axis("off")
    axes.set_xlim(0, 1)
    axes.set_ylim(lines, 0)
    line = 0
    for slot, block in enumerate(blocks):
        across, down = divmod(line, left) if line < left else (1, line - left)
        x = 0.012 + 0.5 * across
        box = {"boxstyle": "round,pad=0.15", "facecolor": slot_colour(slot), "linewidth": 0}
        number = axes.text(x, down + 0.5, str(slot + 1), fontsize=6.5, color=slot_ink(slot), bbox=box)
        number.set(va="center", ha="center")
        for index, part in enumerate(block):
            # Matplotlib would typeset text between two dollar signs as mathematics.
            axes.text(x + 0.014, down + index + 0.5, part, fontsize=7.5, va="center", color=theme.ink, parse_math=False)
        line += len(block)
