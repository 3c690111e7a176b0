"""Draws one packed row: its sound, who owns which column and which text token, and the captions."""

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

# Eight of the "muted" colours of Paul Tol (https://personal.sros.nl/~pault/), which people with any of the common
# colour-vision deficiencies tell apart, in the order in which neighbours differ most for all of them. They come round
# again after eight slots; the number in each slot says which one it is.
SLOT_COLOURS = ("#332288", "#44aa99", "#999933", "#882255", "#88ccee", "#117733", "#aa4499", "#ddcc77")
_LIGHT_COLOURS = ("#44aa99", "#999933", "#88ccee", "#ddcc77")

WIDTH = 11.0  # inches
_LINE = 0.165  # inches of a line of a caption
_CAPTION_CHARACTERS = 80
_CAPTION_LINES = 3
_NARROW = 0.014  # a slot of less than this share of the row has its number above it


@dataclasses.dataclass(frozen=True)
class PackedRow:
    """A single row and what is drawn of it.

    Attributes:
        batch: one row, in numpy.
        captions: what to write for each slot that holds a clip, in slot order.
        log_mel: [C * 16, mels], natural log; the floor where nothing sounds.
        audio: `config.audio`.
    """

    batch: PackedBatch
    captions: list[str]
    log_mel: Float[np.ndarray, "frames mels"]
    audio: ConfigDict

    @property
    def segments(self) -> Int[np.ndarray, " C"]:
        """Owner of each column, 0 for padding."""
        return np.asarray(self.batch.audio_segment_ids[0])

    @property
    def text_segment_ids(self) -> Int[np.ndarray, " T"]:
        """Owner of each text token, 0 for padding."""
        return np.asarray(self.batch.text_segment_ids[0])

    @property
    def column_seconds(self) -> float:
        """Duration of a column."""
        return samples_per_column(self.audio) / self.audio.sample_rate

    def span(self, slot: int) -> tuple[float, float]:
        """Start and end of a slot's columns in seconds from the start of the row."""
        start, end = segment_span(self.segments, slot)
        return start * self.column_seconds, end * self.column_seconds


def segment_span(segments: Int[np.ndarray, " n"], slot: int) -> tuple[int, int]:
    """First index that a slot owns and the one after its last; (0, 0) where it owns none."""
    owned = np.flatnonzero(segments == slot + 1)
    return (int(owned[0]), int(owned[-1]) + 1) if len(owned) else (0, 0)


def slot_colour(slot: int) -> str:
    """Hexadecimal colour of a slot; see `SLOT_COLOURS`."""
    return SLOT_COLOURS[slot % len(SLOT_COLOURS)]


def slot_ink(slot: int) -> str:
    """Colour in which the number of a slot is readable on the slot's colour."""
    return "#1f2529" if slot_colour(slot) in _LIGHT_COLOURS else "#ffffff"


def row_figure(row: PackedRow, theme: Theme, with_captions: bool, title: str = "") -> "Figure":
    """Draws waveform, log-mel and ownership of a row over time, and its text. Call within `drawing(theme)`.

    Args:
        row: what to draw.
        theme: colours.
        with_captions: write the captions below; the page has them as a list instead.
        title: to write above.
    """
    blocks = _caption_blocks(row.captions) if with_captions else []
    left = _lines_of_left_half(blocks)
    lines = max(left, sum(map(len, blocks)) - left)
    heights = [0.85, 1.45, 0.42, 0.36] + ([_LINE * lines] if lines else [])
    figure = new_figure(WIDTH, sum(heights) + 1.05)
    panels = list(figure.subplots(len(heights), 1, height_ratios=heights))
    wave, mel, owner, text = panels[:4]
    seconds = len(row.segments) * row.column_seconds
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
    _draw_owners(owner, row.segments, row.column_seconds, theme)
    owner.set_ylabel("owner", fontsize=8)
    owner.set_xlabel("seconds in the row")
    _draw_owners(text, row.text_segment_ids, 1.0, theme)
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


def _draw_owners(axes: "Axes", segments: Int[np.ndarray, " n"], unit: float, theme: Theme) -> None:
    """Draws a bar in the colours of the slots, with their numbers; `unit` is the width of one element on the axis."""
    end = len(segments)
    narrow: list[tuple[int, float]] = []
    for slot in range(int(segments.max(initial=0))):
        first, after = segment_span(segments, slot)
        axes.barh(0, (after - first) * unit, left=first * unit, height=1.0, color=slot_colour(slot), linewidth=0)
        centre = (first + after) / 2 * unit
        if after - first >= _NARROW * end:
            axes.text(centre, 0, str(slot + 1), ha="center", va="center", fontsize=7.5, color=slot_ink(slot))
        elif after > first:
            narrow.append((slot, centre))
    places = spread([centre for _, centre in narrow], _NARROW * end * unit)
    for (slot, centre), place in zip(narrow, places, strict=True):
        axes.plot((centre, place), (0.5, 0.75), color=theme.muted, linewidth=0.5)
        axes.text(place, 0.8, str(slot + 1), ha="center", va="bottom", fontsize=6.5, color=theme.muted)
    used = int((segments != PADDING_SEGMENT).sum())
    axes.barh(0, (end - used) * unit, left=used * unit, height=1.0, color=theme.line, linewidth=0)
    if end - used > 0.08 * end:
        axes.text((used + end) / 2 * unit, 0, "padding", ha="center", va="center", fontsize=7.5, color=theme.muted)
    axes.set_xlim(0, end * unit)
    axes.set_ylim(-0.5, 1.7 if narrow else 0.5)
    axes.set_yticks([])


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Moves ascending places apart until neighbours are at least `gap` from each other, each group about its middle."""
    groups: list[list[float]] = []  # each: the wanted places of its members
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _first(groups[-1], gap) - _last(groups[-2], gap) < gap:
            last = groups.pop()
            groups[-1] += last
    return [_first(group, gap) + index * gap for group in groups for index in range(len(group))]


def _first(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _last(group: Sequence[float], gap: float) -> float:
    return _first(group, gap) + gap * (len(group) - 1)


def _caption_blocks(captions: Sequence[str]) -> list[list[str]]:
    """Breaks each caption into lines; one of too many lines ends with an ellipsis."""
    return [
        textwrap.wrap(caption, _CAPTION_CHARACTERS, max_lines=_CAPTION_LINES, placeholder=" …") or ["(no caption)"]
        for caption in captions
    ]


def _lines_of_left_half(blocks: Sequence[Sequence[str]]) -> int:
    """How many lines the captions left of the middle take when the two halves are as equal as whole captions allow."""
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
            # A caption may hold dollar signs, between which matplotlib would see mathematics.
            axes.text(x + 0.014, down + index + 0.5, part, fontsize=7.5, va="center", color=theme.ink, parse_math=False)
        line += len(block)
