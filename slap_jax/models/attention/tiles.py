"""Which tiles of scores can hold an allowed pair: what the kernels of TPU and GPU compute, and nothing else.

Clips are contiguous in a packed row, so the tiles of keys that a tile of queries must look at lie in one run. Rows that
hold their segments in another order get longer runs than they need, never too short ones.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

# Owners of places that were added to fill the last tile: equal to no owner of a row (0 and more), nor to each other.
NO_QUERY, NO_KEY = -1, -2


class Mask(NamedTuple):
    """The part of the mask that the program is compiled for; `mask(q_index, kv_index)` applies it.

    Attributes:
        window: keys seen on each side of the query, None for all.
        causal: whether keys after the query are hidden.
    """

    window: int | None
    causal: bool

    @property
    def free(self) -> bool:
        """Whether places do not matter."""
        return self.window is None and not self.causal

    def __call__(self, q_index: Array, kv_index: Array) -> Array:
        """Whether a query may see a key as far as their places in the row are concerned; not for a free mask."""
        after = 0 if self.causal else self.window
        near = None if after is None else kv_index - q_index <= after
        if self.window is not None:
            before = q_index - kv_index <= self.window
            near = before if near is None else near & before
        assert near is not None
        return near


def reachable(q_length: int, kv_length: int, q_tile: int, kv_tile: int, mask: Mask) -> Bool[np.ndarray, "A B"]:
    """Whether a tile of queries reaches a tile of keys by their places alone.

    Args:
        q_length: queries of a row, a multiple of `q_tile`.
        kv_length: keys of a row, a multiple of `kv_tile`.
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


def overlap(
    q_segment_ids: Int[Array, "R Q"], kv_segment_ids: Int[Array, "R N"], q_tile: int, kv_tile: int, mask: Mask
) -> Bool[Array, "R A B"]:
    """Whether a tile of queries may share an allowed pair with a tile of keys; never wrongly False.

    Args:
        q_segment_ids: owner of each query; Q is a multiple of `q_tile`.
        kv_segment_ids: owner of each key; N is a multiple of `kv_tile`.
        q_tile: queries in a tile.
        kv_tile: keys in a tile.
        mask: window and direction.
    """

    def span(segments: Int[Array, "R L"], tile: int) -> tuple[Int[Array, "R A"], Int[Array, "R A"]]:
        tiles = segments.reshape(segments.shape[0], -1, tile)
        # Padding ends a row: with it as the largest owner the owners of a packed row ascend, and spans are exact.
        tiles = jnp.where(tiles == 0, jnp.iinfo(jnp.int32).max, tiles)
        # Added places belong to nobody and must not widen a span; a tile of them alone has an empty one.
        low = jnp.where(tiles < 0, jnp.iinfo(jnp.int32).max, tiles).min(-1)
        return low, tiles.max(-1)

    (q_low, q_high), (kv_low, kv_high) = span(q_segment_ids, q_tile), span(kv_segment_ids, kv_tile)
    shared = (q_high[:, :, None] >= kv_low[:, None]) & (kv_high[:, None] >= q_low[:, :, None])
    # A tile of added places alone has its highest owner below zero; one of padding has the largest owner on both sides.
    shared &= (q_high[:, :, None] >= 0) & (kv_high[:, None] >= 0)
    return shared & reachable(q_segment_ids.shape[1], kv_segment_ids.shape[1], q_tile, kv_tile, mask)


def run(tiles: Bool[Array, "*batch A B"]) -> tuple[Int[Array, "*batch A"], Int[Array, "*batch A"]]:
    """First and last-plus-one of the tiles along the last axis that are True; (0, 0) where there is none."""
    count = tiles.shape[-1]
    index = jnp.arange(count, dtype=jnp.int32)
    last = jnp.max(jnp.where(tiles, index + 1, 0), axis=-1)
    first = jnp.min(jnp.where(tiles, index, count), axis=-1)
    return jnp.minimum(first, last), last


def longer(x: Array, length: int, fill: int = 0) -> Array:
    """Appends `fill` along axis 1 up to `length`."""
    missing = length - x.shape[1]
    return jnp.pad(x, ((0, 0), (0, missing)) + ((0, 0),) * (x.ndim - 2), constant_values=fill) if missing else x
