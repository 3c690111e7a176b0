"""How full packed rows will be: the packer of training, run on the sizes of clips alone."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from slap_jax.data.batches.rows import RowPacker
from slap_jax.data.packing import PackingError

# Rows of a forecast, if they take no more clips than the most: the share of columns is then good to about 0.001.
_ROWS = 400
_FEWEST_CLIPS, _MOST_CLIPS = 2_000, 300_000

# Slots and text tokens are advised in such steps, and said to be what stops rows from filling above such a difference.
_SLOTS_STEP, _TOKENS_STEP = 4, 32
_TOLERANCE = 0.003


@dataclasses.dataclass(frozen=True)
class RowRoom:
    """The size of rows.

    Attributes:
        columns: C, of a row.
        slots: K, of a row.
        text_tokens: T, of a row.
        bins: rows that are open at a time.
    """

    columns: int
    slots: int
    text_tokens: int
    bins: int


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What to expect of rows.

    Attributes:
        room: of a row.
        rows: how many were packed.
        fill: share of the columns that a clip owns.
        text_fill: share of the text tokens in use; None if no tokens were given.
        slot_fill: share of the slots in use.
        clips_per_row: mean.
        enough: the fewest slots and text tokens with which rows are as full as without these limits.
        enough_fill: share of the columns in use with them.
        limits: which of "slots" and "text_tokens" stops rows from filling, by more than a few thousandths.
    """

    room: RowRoom
    rows: int
    fill: float
    text_fill: float | None
    slot_fill: float
    clips_per_row: float
    enough: RowRoom
    enough_fill: float
    limits: tuple[str, ...]


def forecast(columns: Int[np.ndarray, " n"], tokens: Int[np.ndarray, " n"] | None, room: RowRoom) -> Forecast:
    """Packs clips of the given sizes and asks which limits matter.

    Args:
        columns: of each clip, in the order of the stream; `clips_needed` says how many are good.
        tokens: of each clip's caption; None leaves text out of account.
        room: of a row.

    Raises:
        PackingError: a clip is larger than a row, or the clips fill no row.
    """
    tokens_known = np.zeros_like(columns) if tokens is None else tokens
    for name, largest, most in (
        ("columns", int(columns.max()), room.columns),
        ("text tokens", int(tokens_known.max()), room.text_tokens),
    ):
        if largest > most:
            raise PackingError(
                f"a clip takes {largest} {name}, a row has {most}: make rows longer, or lower the most that a clip "
                "may take (max_seconds, max_caption_tokens)"
            )

    def pack(slots: int, text_tokens: int) -> Float[np.ndarray, "rows 3"]:
        return pack_sizes(columns, tokens_known, dataclasses.replace(room, slots=slots, text_tokens=text_tokens))

    def fill(slots: int, text_tokens: int) -> float:
        return float(pack(slots, text_tokens)[:, 0].mean()) / room.columns

    used = pack(room.slots, room.text_tokens)
    if not len(used):
        raise PackingError(
            f"{len(columns)} clips fill no row of {room.columns} columns beside {room.bins} open ones: give more clips"
        )
    mean_columns, mean_tokens, mean_clips = used.mean(axis=0)
    # Every clip owns a column and has no more tokens than the longest caption: these limits are none.
    no_slots, no_tokens = room.columns, room.columns * max(1, int(tokens_known.max()))
    wanted = fill(no_slots, no_tokens) - _TOLERANCE
    slots = _least(lambda count: fill(count, no_tokens) >= wanted, _SLOTS_STEP, 1, no_slots)
    least_tokens = max(1, int(tokens_known.max()))
    text_tokens = _least(lambda count: fill(slots, count) >= wanted, _TOKENS_STEP, least_tokens, no_tokens)
    enough_fill = fill(slots, text_tokens)
    present = float(mean_columns) / room.columns
    short = present < wanted
    return Forecast(
        room=room,
        rows=len(used),
        fill=present,
        text_fill=None if tokens is None else float(mean_tokens) / room.text_tokens,
        slot_fill=float(mean_clips) / room.slots,
        clips_per_row=float(mean_clips),
        enough=dataclasses.replace(room, slots=slots, text_tokens=text_tokens),
        enough_fill=enough_fill,
        limits=tuple(
            name
            for name, has, needs in (("slots", room.slots, slots), ("text_tokens", room.text_tokens, text_tokens))
            if short and has < needs
        ),
    )


def pack_sizes(
    columns: Int[np.ndarray, " n"], tokens: Int[np.ndarray, " n"], room: RowRoom
) -> Float[np.ndarray, "rows 3"]:
    """Returns the columns, text tokens and clips of each row that the packer of training completes."""
    packer: RowPacker[None] = RowPacker(room.columns, room.text_tokens, room.slots, room.bins)
    rows = []
    for clip_columns, clip_tokens in zip(columns.tolist(), tokens.tolist(), strict=True):
        row = packer.add(None, clip_columns, clip_tokens)
        if row is not None:
            rows.append((sum(clip.columns for clip in row), sum(clip.tokens for clip in row), len(row)))
    return np.array(rows, np.float64).reshape(-1, 3)


def clips_needed(mean_columns: float, room: RowRoom) -> int:
    """Returns how many clips of that many columns on average make a good forecast."""
    rows = _ROWS + room.bins
    return int(np.clip(rows * room.columns / mean_columns, _FEWEST_CLIPS, _MOST_CLIPS))


def _least(suffices: Callable[[int], bool], step: int, low: int, high: int) -> int:
    """Returns the least multiple of `step` from `low` on that suffices, or the first one from `high` on."""
    below, above = -(-low // step) - 1, -(-high // step)
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if suffices(middle * step) else (middle, above)
    return above * step
