"""Forecasts how full packed rows will be by running the packer of training on clip sizes."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from slap_jax.data.batches.rows import RowPacker
from slap_jax.data.packing import PackingError

# Rows per forecast, within the bounds on clips: the fraction of used columns is then exact to about 0.001.
_ROWS = 400
_MIN_CLIPS, _MAX_CLIPS = 2_000, 300_000

# Granularity of the advice on slots and text tokens, and the loss of fill above which they limit the rows.
_SLOTS_STEP, _TOKENS_STEP = 4, 32
_TOLERANCE = 0.003


@dataclasses.dataclass(frozen=True)
class RowSize:
    """Size of a row, and of the packer.

    Attributes:
        columns: C.
        slots: K.
        text_tokens: T.
        bins: rows that are open at the same time.
    """

    columns: int
    slots: int
    text_tokens: int
    bins: int


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Forecast of packed rows.

    Attributes:
        row_size: size of the forecast rows.
        rows: number of packed rows.
        fill: fraction of used columns.
        text_fill: fraction of used text tokens; None if no tokens were given.
        slot_fill: fraction of used slots.
        clips_per_row: mean number of clips.
        enough: the fewest slots and text tokens that fill rows as well as unlimited ones.
        enough_fill: fraction of used columns with `enough`.
        limits: those of "slots" and "text_tokens" that reduce the fill by more than a few thousandths.
    """

    row_size: RowSize
    rows: int
    fill: float
    text_fill: float | None
    slot_fill: float
    clips_per_row: float
    enough: RowSize
    enough_fill: float
    limits: tuple[str, ...]


def forecast(columns: Int[np.ndarray, " n"], tokens: Int[np.ndarray, " n"] | None, row_size: RowSize) -> Forecast:
    """Packs clips of the given sizes and determines which limits matter.

    Args:
        columns: number of columns of each clip in stream order; `clips_needed` gives a sufficient number.
        tokens: number of tokens of each caption; None ignores text.
        row_size: size of the rows.

    Raises:
        PackingError: a clip is larger than a row, or the clips do not complete a row.
    """
    tokens_known = np.zeros_like(columns) if tokens is None else tokens
    for name, largest, limit in (
        ("columns", int(columns.max()), row_size.columns),
        ("text tokens", int(tokens_known.max()), row_size.text_tokens),
    ):
        if largest > limit:
            raise PackingError(
                f"a clip takes {largest} {name}, but a row has {limit}: use longer rows, or lower max_seconds or "
                "max_caption_tokens"
            )

    def pack(slots: int, text_tokens: int) -> Float[np.ndarray, "rows 3"]:
        return pack_sizes(columns, tokens_known, dataclasses.replace(row_size, slots=slots, text_tokens=text_tokens))

    def fill(slots: int, text_tokens: int) -> float:
        return float(pack(slots, text_tokens)[:, 0].mean()) / row_size.columns

    used = pack(row_size.slots, row_size.text_tokens)
    if not len(used):
        raise PackingError(
            f"{len(columns)} clips complete no row of {row_size.columns} columns with {row_size.bins} open rows; give "
            "more clips"
        )
    mean_columns, mean_tokens, mean_clips = used.mean(axis=0)
    # Every clip has at least one column and at most the tokens of the longest caption: these values do not limit.
    unlimited_slots, unlimited_tokens = row_size.columns, row_size.columns * max(1, int(tokens_known.max()))
    target = fill(unlimited_slots, unlimited_tokens) - _TOLERANCE
    slots = _least(lambda count: fill(count, unlimited_tokens) >= target, _SLOTS_STEP, 1, unlimited_slots)
    min_tokens = max(1, int(tokens_known.max()))
    text_tokens = _least(lambda count: fill(slots, count) >= target, _TOKENS_STEP, min_tokens, unlimited_tokens)
    enough_fill = fill(slots, text_tokens)
    actual_fill = float(mean_columns) / row_size.columns
    limits = (("slots", row_size.slots, slots), ("text_tokens", row_size.text_tokens, text_tokens))
    return Forecast(
        row_size=row_size,
        rows=len(used),
        fill=actual_fill,
        text_fill=None if tokens is None else float(mean_tokens) / row_size.text_tokens,
        slot_fill=float(mean_clips) / row_size.slots,
        clips_per_row=float(mean_clips),
        enough=dataclasses.replace(row_size, slots=slots, text_tokens=text_tokens),
        enough_fill=enough_fill,
        limits=tuple(name for name, has, needs in limits if actual_fill < target and has < needs),
    )


def pack_sizes(
    columns: Int[np.ndarray, " n"], tokens: Int[np.ndarray, " n"], row_size: RowSize
) -> Float[np.ndarray, "rows 3"]:
    """Returns the columns, text tokens and clips of each row that the packer of training completes."""
    packer: RowPacker[None] = RowPacker(row_size.columns, row_size.text_tokens, row_size.slots, row_size.bins)
    rows = []
    for clip_columns, clip_tokens in zip(columns.tolist(), tokens.tolist(), strict=True):
        row = packer.add(None, clip_columns, clip_tokens)
        if row is not None:
            rows.append((sum(clip.columns for clip in row), sum(clip.tokens for clip in row), len(row)))
    return np.array(rows, np.float64).reshape(-1, 3)


def clips_needed(mean_columns: float, row_size: RowSize) -> int:
    """Returns a sufficient number of clips for a forecast, given their mean number of columns."""
    rows = _ROWS + row_size.bins
    return int(np.clip(rows * row_size.columns / mean_columns, _MIN_CLIPS, _MAX_CLIPS))


def _least(suffices: Callable[[int], bool], step: int, low: int, high: int) -> int:
    """Returns the smallest sufficient multiple of `step` in [low, high], by bisection; else the first from `high`."""
    below, above = -(-low // step) - 1, -(-high // step)
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if suffices(middle * step) else (middle, above)
    return above * step
