"""Which tiles of the score matrix can hold an allowed pair; `chunked`, `splash` and `flash` compute those only.

Clips are contiguous in a packed row, so the key tiles that a query tile needs form one span. If a row holds its
segments in another order, spans are longer than necessary, but never too short.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

# Segment ids of padding that fills up the last tile. They differ from the ids in a row, which are 0 and more, and from
# each other, so padded queries see nothing and nothing sees padded keys.
PADDED_QUERY, PADDED_KEY = -1, -2


class SegmentIds(NamedTuple):
    """Segment ids of the queries and of the keys; [R, L] each, or cut into tiles."""

    q: Int[Array, "..."]
    kv: Int[Array, "..."]


class PositionMask(NamedTuple):
    """The static part of the mask, which depends on positions only; call it to apply it.

    Attributes:
        window: number of keys seen on each side of the query, None for all.
        causal: whether keys after the query are hidden.
    """

    window: int | None
    causal: bool

    @property
    def is_trivial(self) -> bool:
        """Whether every query may see every key of its segment."""
        return self.window is None and not self.causal

    def __call__(self, q_positions: Array, kv_positions: Array) -> Array:
        """Returns whether the query may see the key, from their positions in the row; not for a trivial mask."""
        after = 0 if self.causal else self.window
        mask = None if after is None else kv_positions - q_positions <= after
        if self.window is not None:
            before = q_positions - kv_positions <= self.window
            mask = before if mask is None else mask & before
        assert mask is not None
        return mask


def reachable_tiles(
    q_length: int, kv_length: int, q_tile: int, kv_tile: int, mask: PositionMask
) -> Bool[np.ndarray, "A B"]:
    """Returns which key tiles a query tile can reach by position alone.

    Args:
        q_length: queries in a row, a multiple of `q_tile`.
        kv_length: keys in a row, a multiple of `kv_tile`.
        q_tile: queries in a tile.
        kv_tile: keys in a tile.
        mask: window and direction.
    """
    q_first = np.arange(0, q_length, q_tile)[:, None]
    kv_first = np.arange(0, kv_length, kv_tile)[None]
    reached = np.ones((q_length // q_tile, kv_length // kv_tile), bool)
    if mask.window is not None:
        reached &= (kv_first + kv_tile > q_first - mask.window) & (kv_first < q_first + q_tile + mask.window)
    if mask.causal:
        reached &= kv_first < q_first + q_tile
    return reached


def overlapping_tiles(
    q_segment_ids: Int[Array, "R Q"], kv_segment_ids: Int[Array, "R N"], q_tile: int, kv_tile: int, mask: PositionMask
) -> Bool[Array, "R A B"]:
    """Returns which pairs of tiles may hold an allowed pair: those that are reachable and share a range of segment ids.

    Args:
        q_segment_ids: segment of each query; Q is a multiple of `q_tile`.
        kv_segment_ids: segment of each key; N is a multiple of `kv_tile`.
        q_tile: queries in a tile.
        kv_tile: keys in a tile.
        mask: window and direction.

    Returns:
        Never wrongly False; exact for packed rows with a trivial mask.
    """
    (q_low, q_high), (kv_low, kv_high) = _id_ranges(q_segment_ids, q_tile), _id_ranges(kv_segment_ids, kv_tile)
    overlap = (q_high[:, :, None] >= kv_low[:, None]) & (kv_high[:, None] >= q_low[:, :, None])
    overlap &= (q_high[:, :, None] >= 0) & (kv_high[:, None] >= 0)  # not for tiles that are all fill
    return overlap & reachable_tiles(q_segment_ids.shape[1], kv_segment_ids.shape[1], q_tile, kv_tile, mask)


def _id_ranges(segment_ids: Int[Array, "R L"], tile: int) -> tuple[Int[Array, "R A"], Int[Array, "R A"]]:
    """Returns the lowest and the highest segment id of each tile; the highest is negative if the tile is all fill."""
    highest_id = jnp.iinfo(jnp.int32).max
    tiles = segment_ids.reshape(segment_ids.shape[0], -1, tile)
    # Padding (0) comes last in a row. As the highest id it keeps the ids of a packed row ascending and ranges exact.
    tiles = jnp.where(tiles == 0, highest_id, tiles)
    low = jnp.where(tiles < 0, highest_id, tiles).min(-1)
    return low, tiles.max(-1)


def tile_spans(tiles: Bool[Array, "*batch A B"]) -> tuple[Int[Array, "*batch A"], Int[Array, "*batch A"]]:
    """Returns [start, end) of the True tiles along the last axis; (0, 0) if there are none."""
    count = tiles.shape[-1]
    index = jnp.arange(count, dtype=jnp.int32)
    end = jnp.max(jnp.where(tiles, index + 1, 0), axis=-1)
    start = jnp.min(jnp.where(tiles, index, count), axis=-1)
    return jnp.minimum(start, end), end


def pad_to_length(x: Array, length: int, fill: int = 0) -> Array:
    """Appends `fill` along axis 1 up to `length`."""
    missing = length - x.shape[1]
    return jnp.pad(x, ((0, 0), (0, missing)) + ((0, 0),) * (x.ndim - 2), constant_values=fill) if missing else x
