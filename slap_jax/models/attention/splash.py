"""Attention on TPU: JAX's splash kernel, told for every batch which tiles of scores the clips of its rows touch.

`jax.experimental.pallas.ops.tpu.splash_attention` takes, beside queries, keys, values and owners, tables of the tiles
to visit. Its own tables come from masks that are known at compile time, so it would visit every pair of tiles of a
packed row, most of which belong to different clips. Here the tables are computed from the owners: the rows of the
batch are laid end to end, and each tile of queries gets the run of its row's tiles of keys that hold its clips, cut to
the window and to the past where the layer asks for it. One kernel call serves all rows, and tiles that no clip shares
are neither fetched nor computed.

A query that sees no key is undefined in splash. A sink, a score that every query sees and that adds nothing to the
result, far below any real score, defines it: such a query puts all its weight there and gets zeros and zero gradients,
and no other is changed. Gradients of queries come from a kernel of their own: the fused backward kernel writes them
once for each tile of keys of the whole batch, which grows with the square of the rows.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo
from jaxtyping import Array, Float, Int

from slap_jax.models.attention.tiles import NO_KEY, NO_QUERY, Mask, longer, overlap, reachable, run

# The kernel's smallest tile: owners lie along the 128 lanes.
LANES = 128
# Queries, and keys of a global layer, in a tile. A tile of 512 x 512 scores is enough work to hide the fixed cost of a
# step of the kernel (about a third of a microsecond), and two of them fit the vector memory with their operands.
TILE = 512
# Keys in a tile of a local layer: a window is a few keys wide, so most of a larger tile would be computed for nothing.
LOCAL_TILE = 128
# Above the kernel's score of a masked pair, so that masked pairs weigh nothing beside it; below any real score.
SINK = -1e30


def _tiling(length: int, largest: int) -> tuple[int, int]:
    """Splits a row into as few equal tiles of at most `largest` as it needs: (tile, length they fill)."""
    count = -(-length // largest)
    tile = -(-length // (count * LANES)) * LANES
    return tile, count * tile


def _tables(
    q_segment_ids: Int[Array, "R Q"],
    kv_segment_ids: Int[Array, "R N"],
    q_tile: int,
    kv_tile: int,
    mask: Mask,
    by_key: bool,
) -> MaskInfo:
    """What the kernel visits: for each tile of queries the tiles of keys, or the other way round `by_key`."""
    (rows, q_length), kv_length = q_segment_ids.shape, kv_segment_ids.shape[1]
    tiles = overlap(q_segment_ids, kv_segment_ids, q_tile, kv_tile, mask)
    reached = reachable(q_length, kv_length, q_tile, kv_tile, mask)
    if by_key:
        tiles, reached = jnp.swapaxes(tiles, 1, 2), reached.T
    first, last = run(tiles)
    steps = jnp.arange(int(reached.sum(1).max()), dtype=jnp.int32)  # no run is longer than the mask allows
    start = jnp.arange(rows, dtype=jnp.int32)[:, None] * reached.shape[1]  # of the row, in tiles of the batch
    visit = first[..., None] + steps < last[..., None]
    # Steps beyond the run name its last tile again: the kernel fetches nothing for them.
    step = (start + first)[..., None] + jnp.minimum(steps, jnp.maximum(last - first, 1)[..., None] - 1)
    step, visit = (x.reshape(1, -1, steps.size) for x in (step, visit.astype(jnp.int32)))
    if by_key:
        step, visit = jnp.swapaxes(step, 1, 2), jnp.swapaxes(visit, 1, 2)
    # The place of each query as the kernel counts keys: rows of keys end to end.
    place = jnp.arange(rows, dtype=jnp.int32)[:, None] * kv_length + jnp.arange(q_length, dtype=jnp.int32)
    index: Any = None if mask.free else place.reshape(-1)
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
    """Same as the dense backend, on TPU; memory linear in the row, time linear in it for clips of a given length.

    Args:
        q: queries, not yet scaled.
        k: keys.
        v: values.
        q_segment_ids: owner of each query.
        kv_segment_ids: owner of each key.
        window: keys seen on each side of the query, None for all.
        causal: whether keys after the query are hidden.
        tiles: most queries and keys in a tile, multiples of 128; None chooses by the kind of layer.
        interpret: run the kernel as ordinary operations, on any device; for tests.
    """
    rows, length, heads, _ = q.shape
    mask = Mask(window, causal)
    q_largest, kv_largest = tiles or (TILE, TILE if window is None else LOCAL_TILE)
    (q_tile, q_length), (kv_tile, kv_length) = _tiling(length, q_largest), _tiling(k.shape[1], kv_largest)
    # Owners of different rows differ, since the rows are laid end to end: a window may reach over the end of one.
    owners = (longer(q_segment_ids, q_length, NO_QUERY), longer(kv_segment_ids, kv_length, NO_KEY))
    tables = functools.partial(_tables, *owners, q_tile, kv_tile, mask)
    # TPU memory holds the last axis in steps of 128, so 64 numbers of a head would take the place of 128: keys and
    # values are laid out with the tokens last (524 MB of temporaries instead of 708 at 16 x 2,048 x 12 x 64, v5e).
    # Queries are not, since the kernel would turn each tile back once for every tile of keys.
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
        # A remat policy may keep what has this name instead of running the kernel again.
        residual_checkpoint_name="attention",
        mask_function=None if mask.free else mask,
        interpret=interpret,
    )

    def end_to_end(x: Float[Array, "R N H d"], length: int) -> Float[Array, "H RN d"]:
        return longer(x, length).transpose(2, 0, 1, 3).reshape(heads, rows * length, -1)

    row = jnp.arange(rows, dtype=jnp.int32)[:, None]
    segments = splash.SegmentIds(*((x * rows + row).reshape(-1) for x in owners))
    out: Any = kernel(
        end_to_end(q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype), q_length),
        end_to_end(k, kv_length),
        end_to_end(v, kv_length),
        segments,
        jnp.full((heads,), SINK, jnp.float32),
    )
    return out.reshape(heads, rows, q_length, -1).transpose(1, 2, 0, 3)[:, :length].astype(v.dtype)
