"""Attention on TPU: JAX's splash kernel, with tables of tiles computed from the segment ids of each batch.

`jax.experimental.pallas.ops.tpu.splash_attention` visits the tiles that its tables list. Its own tables come from masks
known at compile time, so it would visit every pair of tiles of a packed row, most of which belong to different clips.
Here the tables are computed at run time: the rows of the batch are concatenated, and each query tile visits the span of
key tiles of its row that hold its clips (`tiles.tile_spans`), cut to the window and to the past. One kernel call serves
all rows, and tiles without a common clip are neither fetched nor computed.

Splash leaves the result of a query that sees no key undefined. An attention sink defines it: a score that every query
sees, that adds nothing to the result, and that is far below any real score. Such a query puts all its weight on the
sink and gets zeros and zero gradients; no other query changes. The gradient of the queries has a separate kernel: the
fused backward kernel would write it once per key tile of the whole batch, which grows with the square of the rows.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo
from jaxtyping import Array, Float, Int

from slap_jax.models.attention.tiles import (
    PADDED_KEY,
    PADDED_QUERY,
    PositionMask,
    overlapping_tiles,
    pad_to_length,
    reachable_tiles,
    tile_spans,
)

# The kernel's smallest tile, as segment ids are laid out along the 128 lanes.
LANES = 128
# Queries in a tile, and keys of a global layer. A tile of 512 x 512 scores takes long enough to hide the fixed
# cost of a kernel step (about a third of a microsecond), and two of them fit the vector memory with their operands.
TILE = 512
# Keys in a tile of a local layer: a window is a few keys wide, so most of a larger tile would be masked.
LOCAL_TILE = 128
# Above the kernel's score of masked pairs, so that they weigh nothing against the sink; below any real score.
SINK = -1e30


def _tiling(length: int, largest: int) -> tuple[int, int]:
    """Splits a row into the fewest equal tiles of at most `largest`; returns the tile and the padded length."""
    count = -(-length // largest)
    tile = -(-length // (count * LANES)) * LANES
    return tile, count * tile


def _tables(
    q_segment_ids: Int[Array, "R Q"],
    kv_segment_ids: Int[Array, "R N"],
    q_tile: int,
    kv_tile: int,
    mask: PositionMask,
    by_key: bool,
) -> MaskInfo:
    """Returns the key tiles that each query tile visits, or if `by_key` the query tiles of each key tile."""
    (rows, q_length), kv_length = q_segment_ids.shape, kv_segment_ids.shape[1]
    tiles = overlapping_tiles(q_segment_ids, kv_segment_ids, q_tile, kv_tile, mask)
    reached = reachable_tiles(q_length, kv_length, q_tile, kv_tile, mask)
    if by_key:
        tiles, reached = jnp.swapaxes(tiles, 1, 2), reached.T
    start, end = tile_spans(tiles)
    steps = jnp.arange(int(reached.sum(1).max()), dtype=jnp.int32)  # no span is longer than the mask allows
    row_start = jnp.arange(rows, dtype=jnp.int32)[:, None] * reached.shape[1]  # in tiles of the batch
    visit = start[..., None] + steps < end[..., None]
    # Steps beyond the span repeat its last tile, for which the kernel fetches nothing.
    step = (row_start + start)[..., None] + jnp.minimum(steps, jnp.maximum(end - start, 1)[..., None] - 1)
    step, visit = (x.reshape(1, -1, steps.size) for x in (step, visit.astype(jnp.int32)))
    if by_key:
        step, visit = jnp.swapaxes(step, 1, 2), jnp.swapaxes(visit, 1, 2)
    # The position of each query among the concatenated rows of keys, by which the kernel applies the position mask.
    positions = jnp.arange(rows, dtype=jnp.int32)[:, None] * kv_length + jnp.arange(q_length, dtype=jnp.int32)
    index: Any = None if mask.is_trivial else positions.reshape(-1)
    return MaskInfo(data_next=step, mask_next=None, block_mask=visit, partial_mask_blocks=None, q_sequence=index)


def splash_attention(
    q: Float[Array, "R Q H d"],
    k: Float[Array, "R N H d"],
    v: Float[Array, "R N H d"],
    q_segment_ids: Int[Array, "R Q"],
    kv_segment_ids: Int[Array, "R N"],
    window: int | None,
    causal: bool,
    *,
    tiles: tuple[int, int] | None = None,
    interpret: bool = False,
) -> Float[Array, "R Q H d"]:
    """Attention on TPU; memory is linear in the row, and so is time for clips of a given length.

    `slap_jax.models.attention.attention` describes the arguments. `tiles` is the largest number of queries and keys in
    a tile, multiples of 128, None to choose by the kind of layer. For tests, `interpret` runs the kernel as ordinary
    operations on any device.
    """
    rows, length, heads, _ = q.shape
    mask = PositionMask(window, causal)
    q_largest, kv_largest = tiles or (TILE, TILE if window is None else LOCAL_TILE)
    (q_tile, q_length), (kv_tile, kv_length) = _tiling(length, q_largest), _tiling(k.shape[1], kv_largest)
    q_ids = pad_to_length(q_segment_ids, q_length, PADDED_QUERY)
    kv_ids = pad_to_length(kv_segment_ids, kv_length, PADDED_KEY)
    tables = functools.partial(_tables, q_ids, kv_ids, q_tile, kv_tile, mask)
    # TPU memory pads the last axis to a multiple of 128, so a head of 64 would take twice its size. Keys and values
    # therefore have the tokens last (524 MB of temporaries instead of 708 at 16 x 2,048 x 12 x 64, v5e), but queries do
    # not: the kernel would transpose each query tile once per key tile.
    kernel = splash.SplashAttentionKernel(
        tables(by_key=False),
        tables(by_key=False),
        tables(by_key=True),
        block_sizes=splash.BlockSizes(
            block_q=q_tile,
            block_kv=kv_tile,
            block_q_dkv=q_tile,
            block_kv_dkv=kv_tile,
            block_q_dq=q_tile,
            block_kv_dq=kv_tile,
            k_layout=splash.QKVLayout.SEQ_MINOR,
            v_layout=splash.QKVLayout.SEQ_MINOR,
        ),
        is_mqa=False,
        save_residuals=False,
        mask_value=splash.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        # With this name a remat policy can save the results instead of running the kernel again.
        residual_checkpoint_name="attention",
        mask_function=None if mask.is_trivial else mask,
        interpret=interpret,
    )

    def concatenate_rows(x: Float[Array, "R N H d"], length: int) -> Float[Array, "H RN d"]:
        return pad_to_length(x, length).transpose(2, 0, 1, 3).reshape(heads, rows * length, -1)

    row = jnp.arange(rows, dtype=jnp.int32)[:, None]
    # Unique over the batch: a window may reach over the end of a row, where the next one begins.
    segment_ids = splash.SegmentIds(*((ids * rows + row).reshape(-1) for ids in (q_ids, kv_ids)))
    out: Any = kernel(
        concatenate_rows(q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype), q_length),
        concatenate_rows(k, kv_length),
        concatenate_rows(v, kv_length),
        segment_ids,
        jnp.full((heads,), SINK, jnp.float32),
    )
    return out.reshape(heads, rows, q_length, -1).transpose(1, 2, 0, 3)[:, :length].astype(v.dtype)
