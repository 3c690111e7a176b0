"""Attention in plain XLA, tile by tile with an online softmax; memory is linear in the row.

FlashAttention 2 (Dao 2023, algorithms 1 and 2). The forward pass visits the key tiles j of a query tile and keeps a
running maximum m, a running sum l and an unnormalised result acc:

    s      = q k_j^T / sqrt(d), masked
    m_next = max(m_prev, rowmax(s))
    p      = e^(s - m_next)
    alpha  = e^(m_prev - m_next)
    l      = alpha l + rowsum(p)
    acc    = alpha acc + p v_j

and returns out = acc / l and the logsumexp L = m + log(l). The backward pass computes p = e^(s - L) again:

    D   = rowsum(d_out * out)
    d_s = p * (d_out v_j^T - D)
    d_q += d_s k_j,  d_k_j += d_s^T q,  d_v_j += p^T d_out       (with 1 / sqrt(d) folded into q)

Only the tiles that can hold an allowed pair are visited (`tiles.py`), so the cost grows with the lengths of the clips
instead of the row.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from slap_jax.models.attention.dense import MASKED_SCORE, segment_mask
from slap_jax.models.attention.tiles import (
    PADDED_KEY,
    PADDED_QUERY,
    PositionMask,
    SegmentIds,
    overlapping_tiles,
    pad_to_length,
    tile_spans,
)
from slap_jax.parallel.sharding import target_platform

# Queries and keys in a tile: a tile of scores should fit the cache of a CPU, and fill an accelerator.
CPU_TILE, ACCELERATOR_TILE = 64, 512


class TileConfig(NamedTuple):
    """Static settings of the traced program.

    Attributes:
        q_tile: queries in a tile.
        kv_tile: keys in a tile.
        mask: window and direction.
    """

    q_tile: int
    kv_tile: int
    mask: PositionMask


def chunked_attention(
    q: Float[Array, "R Q H d"],
    k: Float[Array, "R N H d"],
    v: Float[Array, "R N H d"],
    q_segment_ids: Int[Array, "R Q"],
    kv_segment_ids: Int[Array, "R N"],
    window: int | None,
    causal: bool,
    tile: int | None = None,
) -> Float[Array, "R Q H d"]:
    """Attention in which one tile of scores exists at a time for each row and head.

    `slap_jax.models.attention.attention` describes the arguments; `tile` is the number of queries and keys in a tile,
    None to choose by platform.
    """
    if tile is None:
        tile = CPU_TILE if target_platform() == "cpu" else ACCELERATOR_TILE
    if target_platform() == "cpu" and q.shape[0] > 1:
        # Separate rows would share one loop, as long as the row with the longest clips needs: 1.35 times the time.
        shape = q.shape
        q, k, v = (x.reshape(1, -1, *x.shape[2:]) for x in (q, k, v))
        q_segment_ids, kv_segment_ids = _join_rows(q_segment_ids, kv_segment_ids)
        return chunked_attention(q, k, v, q_segment_ids, kv_segment_ids, window, causal, tile).reshape(shape)
    q_length, kv_length = q.shape[1], k.shape[1]
    config = TileConfig(min(tile, q_length), min(tile, kv_length), PositionMask(window, causal))
    q_padded = -(-q_length // config.q_tile) * config.q_tile
    kv_padded = -(-kv_length // config.kv_tile) * config.kv_tile
    q = pad_to_length(q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype), q_padded)
    k, v = pad_to_length(k, kv_padded), pad_to_length(v, kv_padded)
    segment_ids = SegmentIds(
        pad_to_length(q_segment_ids, q_padded, PADDED_QUERY), pad_to_length(kv_segment_ids, kv_padded, PADDED_KEY)
    )
    q, k, v = _to_tiles(q, config.q_tile), _to_tiles(k, config.kv_tile), _to_tiles(v, config.kv_tile)
    return _from_tiles(_tiled_attention(q, k, v, segment_ids, config))[:, :q_length]


def _join_rows(q: Int[Array, "R Q"], kv: Int[Array, "R N"]) -> tuple[Int[Array, "1 RQ"], Int[Array, "1 RN"]]:
    """Renumbers the segments of all rows for one long row: ids of different rows differ, and padding ends each row."""
    ids_per_row = jnp.maximum(jnp.max(q), jnp.max(kv)) + 1
    offset = jnp.arange(q.shape[0], dtype=q.dtype)[:, None] * ids_per_row
    q, kv = (offset + jnp.where(ids == 0, ids_per_row, ids) for ids in (q, kv))
    return q.reshape(1, -1), kv.reshape(1, -1)


def _to_tiles(x: Float[Array, "R N H d"], tile: int) -> Float[Array, "B R H b d"]:
    rows, length, heads, dim = x.shape
    return x.reshape(rows, length // tile, tile, heads, dim).transpose(1, 0, 3, 2, 4)


def _from_tiles(x: Float[Array, "B R H b d"]) -> Float[Array, "R N H d"]:
    count, rows, heads, tile, dim = x.shape
    return x.transpose(1, 0, 3, 2, 4).reshape(rows, count * tile, heads, dim)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _tiled_attention(
    q: Float[Array, "A R H a d"],
    k: Float[Array, "B R H b d"],
    v: Float[Array, "B R H b d"],
    segment_ids: SegmentIds,
    config: TileConfig,
) -> Float[Array, "A R H a d"]:
    return _out_and_logsumexp(q, k, v, segment_ids, config)[0]


def _forward(q: Array, k: Array, v: Array, segment_ids: SegmentIds, config: TileConfig) -> tuple[Array, tuple]:
    out, logsumexp = _out_and_logsumexp(q, k, v, segment_ids, config)
    return out, (q, k, v, segment_ids, out, logsumexp)


def _out_and_logsumexp(
    q: Float[Array, "A R H a d"],
    k: Float[Array, "B R H b d"],
    v: Float[Array, "B R H b d"],
    segment_ids: SegmentIds,
    config: TileConfig,
) -> tuple[Float[Array, "A R H a d"], Float[Array, "A R H a"]]:
    """Returns the result and the logsumexp; the latter is 1e30 for a query that sees no key, which makes its p 0."""
    q_ids, kv_ids, starts, ends = _tile_ids_and_spans(segment_ids, config)

    def query_loop(_: None, inputs: tuple[Array, ...]) -> tuple[None, tuple[Array, Array]]:
        q_i, q_ids_i, i, start, end = inputs

        def key_loop(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            m_prev, l_prev, acc = carry
            s = _masked_scores(q_i, k[j], (q_ids_i, kv_ids[j]), (i, j), config)
            m_next = jnp.maximum(m_prev, s.max(-1))
            alpha, p = jnp.exp(m_prev - m_next), jnp.exp(s - m_next[..., None])
            pv = jnp.einsum("rhqk,rhkd->rhqd", p.astype(v.dtype), v[j], preferred_element_type=jnp.float32)
            return m_next, l_prev * alpha + p.sum(-1), acc * alpha[..., None] + pv

        shape = q_i.shape[:-1]
        init = (jnp.full(shape, MASKED_SCORE), jnp.zeros(shape), jnp.zeros(q_i.shape, jnp.float32))
        m, total, acc = jax.lax.fori_loop(start, end, key_loop, init)
        # A query that sees no key has summed p = e^0 of masked scores, or nothing; its sums are dropped.
        seen = m > MASKED_SCORE
        total = jnp.where(seen, total, 1.0)
        out = jnp.where(seen[..., None], acc / total[..., None], 0.0)
        return None, (out.astype(v.dtype), jnp.where(seen, m + jnp.log(total), -MASKED_SCORE))

    _, results = jax.lax.scan(query_loop, None, (q, q_ids, jnp.arange(q.shape[0]), starts, ends))
    return results


def _backward(config: TileConfig, residuals: tuple, d_out: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, segment_ids, out, logsumexp = residuals
    q_ids, kv_ids, starts, ends = _tile_ids_and_spans(segment_ids, config)
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def query_loop(carry: tuple[Array, Array], inputs: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        q_i, q_ids_i, i, start, end, d_out_i, logsumexp_i, delta_i = inputs

        def key_loop(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            d_q_i, d_k, d_v = carry
            s = _masked_scores(q_i, k[j], (q_ids_i, kv_ids[j]), (i, j), config)
            p = jnp.exp(s - logsumexp_i[..., None])
            d_p = product("rhqd,rhkd->rhqk", d_out_i, v[j])
            d_s = (p * (d_p - delta_i[..., None])).astype(q.dtype)
            d_q_i = d_q_i + product("rhqk,rhkd->rhqd", d_s, k[j])
            d_k = d_k.at[j].add(product("rhqk,rhqd->rhkd", d_s, q_i))
            d_v = d_v.at[j].add(product("rhqk,rhqd->rhkd", p.astype(v.dtype), d_out_i))
            return d_q_i, d_k, d_v

        init = (jnp.zeros(q_i.shape, jnp.float32), *carry)
        d_q_i, d_k, d_v = jax.lax.fori_loop(start, end, key_loop, init)
        return (d_k, d_v), d_q_i.astype(q.dtype)

    init = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32))
    inputs = (q, q_ids, jnp.arange(q.shape[0]), starts, ends, d_out, logsumexp, delta)
    (d_k, d_v), d_q = jax.lax.scan(query_loop, init, inputs)
    return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype), None


_tiled_attention.defvjp(_forward, _backward)


def _tile_ids_and_spans(
    segment_ids: SegmentIds, config: TileConfig
) -> tuple[Int[Array, "A R a"], Int[Array, "B R b"], Int[Array, " A"], Int[Array, " A"]]:
    """Returns the segment ids in tiles, and the span of key tiles that each query tile visits for all rows together."""
    q_ids, kv_ids = (
        ids.reshape(ids.shape[0], -1, tile).transpose(1, 0, 2)
        for ids, tile in zip(segment_ids, (config.q_tile, config.kv_tile), strict=True)
    )
    tiles = overlapping_tiles(segment_ids.q, segment_ids.kv, config.q_tile, config.kv_tile, config.mask)
    return q_ids, kv_ids, *tile_spans(jnp.any(tiles, axis=0))


def _masked_scores(
    q_i: Float[Array, "R H a d"],
    k_j: Float[Array, "R H b d"],
    segment_ids: tuple[Int[Array, "R a"], Int[Array, "R b"]],
    tiles: tuple[Int[Array, ""], Int[Array, ""]],
    config: TileConfig,
) -> Float[Array, "R H a b"]:
    scores = jnp.einsum("rhqd,rhkd->rhqk", q_i, k_j, preferred_element_type=jnp.float32)
    q_positions = tiles[0] * config.q_tile + jnp.arange(config.q_tile)
    kv_positions = tiles[1] * config.kv_tile + jnp.arange(config.kv_tile)
    mask = segment_mask(*segment_ids, q_positions, kv_positions, *config.mask)
    return jnp.where(mask[:, None], scores, MASKED_SCORE)
