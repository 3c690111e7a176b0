"""Packs clips that are in memory into rows; columns, text tokens and slots of a row are limited.

`slap_jax.batch` defines these terms. Training plans its rows in `slap_jax.data.batches.rows` and writes them with
`write_slot`, so both have the same layout.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int16

from slap_jax.batch import PackedBatch, with_labels
from slap_jax.data.audio import INT16_SCALE
from slap_jax.errors import UserError


class PackingError(UserError, ValueError):
    """A clip is larger than a row, or the clips need more rows than allowed."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip with one caption.

    Attributes:
        waveform: samples, int16 or float32 in [-1, 1].
        tokens: ids of the caption, `[BOS, ..., EOS]`; empty if only the audio is used.
        key: stable hash of the clip's id.
        source: index of its source in the training mixture.
    """

    waveform: Int16[np.ndarray, " n"] | Float[np.ndarray, " n"]
    tokens: Sequence[int]
    key: int
    source: int = 0


def clip_columns(samples: int, samples_per_column: int) -> int:
    """Returns the number of columns that a clip owns: `max(1, ceil(samples / samples_per_column))`."""
    return max(1, -(-samples // samples_per_column))


def empty_rows(
    rows: int,
    columns: int,
    slots: int,
    text_tokens: int,
    samples_per_column: int,
    dtype: Any = np.int16,
    classes: int = 0,
) -> PackedBatch:
    """Returns R rows without clips: all arrays are zero. With `classes` above 0 they are a `LabelledBatch`."""
    batch = PackedBatch(
        waveform=np.zeros((rows, columns * samples_per_column), dtype),
        audio_segment_ids=np.zeros((rows, columns), np.int32),
        audio_positions=np.zeros((rows, columns), np.int32),
        text_tokens=np.zeros((rows, text_tokens), np.int32),
        text_segment_ids=np.zeros((rows, text_tokens), np.int32),
        text_positions=np.zeros((rows, text_tokens), np.int32),
        clip_valid=np.zeros((rows, slots), np.bool_),
        clip_key=np.zeros((rows, slots), np.int32),
        clip_source=np.zeros((rows, slots), np.int32),
    )
    return with_labels(batch, np.zeros((rows, slots, classes), np.float32)) if classes else batch


def pack_rows(
    clips: Sequence[Clip],
    columns: int,
    slots: int,
    text_tokens: int,
    samples_per_column: int,
    rows: int | None = None,
) -> tuple[PackedBatch, list[tuple[int, int]]]:
    """Packs clips first-fit in the given order: each goes into the first row with room, or into a new row.

    Args:
        clips: clips in the order in which they are placed.
        columns: C of a row.
        slots: K of a row.
        text_tokens: T of a row.
        samples_per_column: samples of one column.
        rows: R, to fix the number of rows; the rest are empty.

    Returns:
        The batch (numpy; float32 samples in [-1, 1] if any clip has them, else int16) and each clip's (row, slot).

    Raises:
        PackingError: a clip is larger than a row, or more than `rows` rows are needed.
    """
    used = np.zeros((0, 3), np.int64)  # columns, tokens and slots of each row
    room = np.array([columns, text_tokens, slots])
    placement, starts = [], []
    for index, clip in enumerate(clips):
        size = np.array([clip_columns(len(clip.waveform), samples_per_column), len(clip.tokens), 1])
        if np.any(size > room):
            raise PackingError(
                f"clip {index} takes {size[0]} columns and {size[1]} text tokens; a row has {columns} and "
                f"{text_tokens}: crop the clip, or make the row longer"
            )
        fits = np.all(used + size <= room, axis=1)
        row = int(np.argmax(fits)) if fits.any() else len(used)
        if row == len(used):
            used = np.concatenate([used, np.zeros((1, 3), np.int64)])
        starts.append(used[row].copy())
        placement.append((row, int(used[row, 2])))
        used[row] += size
    if rows is not None and len(used) > rows:
        raise PackingError(f"{len(clips)} clips take {len(used)} rows of {columns} columns; only {rows} are allowed")
    is_float = any(np.issubdtype(clip.waveform.dtype, np.floating) for clip in clips)
    batch = empty_rows(
        len(used) if rows is None else rows,
        columns,
        slots,
        text_tokens,
        samples_per_column,
        np.float32 if is_float else np.int16,
    )
    for clip, (row, slot), (column, token, _) in zip(clips, placement, starts, strict=True):
        _write(batch, clip, row, slot, int(column), int(token), samples_per_column)
    return batch, placement


def _write(
    batch: PackedBatch, clip: Clip, row: int, slot: int, column: int, token: int, samples_per_column: int
) -> None:
    samples: np.ndarray = clip.waveform
    if batch.waveform.dtype == np.float32 and samples.dtype == np.int16:
        samples = samples / np.float32(INT16_SCALE)
    start = column * samples_per_column
    batch.waveform[row, start : start + len(samples)] = samples
    columns = clip_columns(len(samples), samples_per_column)
    write_slot(batch, row, slot, column, columns, token, clip.tokens, clip.key, clip.source)


def write_slot(
    batch: PackedBatch,
    row: int,
    slot: int,
    column: int,
    columns: int,
    token: int,
    tokens: Sequence[int],
    key: int,
    source: int,
) -> None:
    """Writes everything but the samples of a clip into a row.

    Args:
        batch: batch of NumPy arrays that are zero where the clip goes.
        row: index of the row.
        slot: slot of the clip.
        column: first column of the clip.
        columns: number of columns that it owns.
        token: index of its first text token in the row.
        tokens: ids of its caption.
        key: key of the recording.
        source: index of its source.
    """
    batch.audio_segment_ids[row, column : column + columns] = slot + 1
    batch.audio_positions[row, column : column + columns] = np.arange(columns)
    batch.text_tokens[row, token : token + len(tokens)] = tokens
    batch.text_segment_ids[row, token : token + len(tokens)] = slot + 1
    batch.text_positions[row, token : token + len(tokens)] = np.arange(len(tokens))
    batch.clip_valid[row, slot] = True
    batch.clip_key[row, slot] = key
    batch.clip_source[row, slot] = source
