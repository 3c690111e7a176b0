"""Attention tile by tile with a running softmax, skipping tiles that hold no allowed pair; memory linear in the row.

The online softmax and its backward pass are those of FlashAttention (Dao 2023, algorithms 1 and 2), in plain XLA.
Clips are contiguous in a packed row, so the keys that a tile of queries can see lie in one run of tiles: the inner
loop covers that run only, and the cost grows with the lengths of the clips instead of with the row.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from slap_jax.models.attention.dense import MASKED_SCORE, allowed
from slap_jax.parallel.sharding import target_platform

# Queries and keys in a tile: on a CPU a tile of scores should stay in the cache, elsewhere fill the device.
CPU_TILE, ACCELERATOR_TILE = 64, 512


class Geometry(NamedTuple):
    """What is known when the program is traced."""

    q_tile: int
    kv_tile: int
    window: int | None
    causal: bool


class Segments(NamedTuple):
    """The owners, in tiles."""

    q: Int[Array, "A R a"]
    kv: Int[Array, "B R b"]


def _tiles(x: Array, tile: int) -> Float[Array, "B R H b d"]:
    rows, length, heads, dim = x.shape
    return x.reshape(rows, length // tile, tile, heads, dim).transpose(1, 0, 3, 2, 4)


def _rows(x: Float[Array, "B R H b d"]) -> Float[Array, "R N H d"]:
    count, rows, heads, tile, dim = x.shape
    return x.transpose(1, 0, 3, 2, 4).reshape(rows, count * tile, heads, dim)


def _runs(segments: Segments, geometry: Geometry) -> tuple[Int[Array, " A"], Int[Array, " A"]]:
    """First and last-plus-one key tile that each query tile may see, over all rows; never too few."""

    def span(tiles: Array) -> tuple[Array, Array]:
        # Padding ends a row: with it as the largest owner the owners of a packed row ascend, and spans are exact.
        owners = jnp.where(tiles > 0, tiles, jnp.iinfo(jnp.int32).max)
        return owners.min(-1), owners.max(-1)

    (q_low, q_high), (kv_low, kv_high) = span(segments.q), span(segments.kv)
    overlap = jnp.any((q_high[:, None] >= kv_low[None]) & (kv_high[None] >= q_low[:, None]), axis=-1)
    tile = jnp.arange(overlap.shape[1])
    q_first = jnp.arange(overlap.shape[0])[:, None] * geometry.q_tile
    q_last, kv_first = q_first + geometry.q_tile - 1, tile * geometry.kv_tile
    if geometry.causal:
        overlap &= kv_first <= q_last
    if geometry.window is not None:
        overlap &= (kv_first <= q_last + geometry.window) & (kv_first + geometry.kv_tile > q_first - geometry.window)
    first = jnp.min(jnp.where(overlap, tile, overlap.shape[1]), axis=1)
    last = jnp.max(jnp.where(overlap, tile + 1, 0), axis=1)
    return first, last


def _scores(
    query: Float[Array, "R H a d"],
    key: Float[Array, "R H b d"],
    segments: tuple[Int[Array, "R a"], Int[Array, "R b"]],
    tiles: tuple[Int[Array, ""], Int[Array, ""]],
    geometry: Geometry,
) -> Float[Array, "R H a b"]:
    scores = jnp.einsum("rhqd,rhkd->rhqk", query, key, preferred_element_type=jnp.float32)
    q_index = tiles[0] * geometry.q_tile + jnp.arange(geometry.q_tile)
    kv_index = tiles[1] * geometry.kv_tile + jnp.arange(geometry.kv_tile)
    allow: Bool[Array, "R a b"] = allowed(*segments, q_index, kv_index, geometry.window, geometry.causal)
    return jnp.where(allow[:, None], scores, MASKED_SCORE)


def _forward(
    q: Float[Array, "A R H a d"],
    k: Float[Array, "B R H b d"],
    v: Float[Array, "B R H b d"],
    segments: Segments,
    geometry: Geometry,
) -> tuple[Float[Array, "A R H a d"], Float[Array, "A R H a"]]:
    """Returns the result, and the log of each query's sum of exponentials; +inf-like where a query sees no key."""

    def one_query_tile(_: None, inputs: tuple[Array, ...]) -> tuple[None, tuple[Array, Array]]:
        query, owners, number, first, last = inputs

        def one_key_tile(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            highest, total, summed = carry
            scores = _scores(query, k[j], (owners, segments.kv[j]), (number, j), geometry)
            raised = jnp.maximum(highest, scores.max(-1))
            fade, weights = jnp.exp(highest - raised), jnp.exp(scores - raised[..., None])
            added = jnp.einsum("rhqk,rhkd->rhqd", weights.astype(v.dtype), v[j], preferred_element_type=jnp.float32)
            return raised, total * fade + weights.sum(-1), summed * fade[..., None] + added

        shape = query.shape[:-1]
        start = (jnp.full(shape, MASKED_SCORE), jnp.zeros(shape), jnp.zeros(query.shape, jnp.float32))
        highest, total, summed = jax.lax.fori_loop(first, last, one_key_tile, start)
        # A query that sees no key has summed exp(0) of masked scores, or nothing: both are dropped.
        seen = highest > MASKED_SCORE
        total = jnp.where(seen, total, 1.0)
        result = jnp.where(seen[..., None], summed / total[..., None], 0.0)
        return None, (result.astype(v.dtype), jnp.where(seen, highest + jnp.log(total), -MASKED_SCORE))

    numbers = jnp.arange(q.shape[0])
    _, results = jax.lax.scan(one_query_tile, None, (q, segments.q, numbers, *_runs(segments, geometry)))
    return results


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _tiled(q: Array, k: Array, v: Array, segments: Segments, geometry: Geometry) -> Float[Array, "A R H a d"]:
    return _forward(q, k, v, segments, geometry)[0]


def _tiled_forward(q: Array, k: Array, v: Array, segments: Segments, geometry: Geometry) -> tuple[Array, tuple]:
    result, log_total = _forward(q, k, v, segments, geometry)
    return result, (q, k, v, segments, result, log_total)


def _tiled_backward(geometry: Geometry, saved: tuple, gradient: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, segments, result, log_total = saved
    inner = jnp.sum(gradient.astype(jnp.float32) * result.astype(jnp.float32), axis=-1)

    def one_query_tile(carry: tuple[Array, Array], inputs: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        query, owners, number, first, last, d_result, log_sum, shared = inputs

        def one_key_tile(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            d_query, d_k, d_v = carry
            scores = _scores(query, k[j], (owners, segments.kv[j]), (number, j), geometry)
            weights = jnp.exp(scores - log_sum[..., None])
            d_weights = jnp.einsum("rhqd,rhkd->rhqk", d_result, v[j], preferred_element_type=jnp.float32)
            d_scores = (weights * (d_weights - shared[..., None])).astype(q.dtype)
            product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
            d_query = d_query + product("rhqk,rhkd->rhqd", d_scores, k[j])
            d_k = d_k.at[j].add(product("rhqk,rhqd->rhkd", d_scores, query))
            d_v = d_v.at[j].add(product("rhqk,rhqd->rhkd", weights.astype(v.dtype), d_result))
            return d_query, d_k, d_v

        start = (jnp.zeros(query.shape, jnp.float32), *carry)
        d_query, d_k, d_v = jax.lax.fori_loop(first, last, one_key_tile, start)
        return (d_k, d_v), d_query.astype(q.dtype)

    start = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32))
    numbers = jnp.arange(q.shape[0])
    inputs = (q, segments.q, numbers, *_runs(segments, geometry), gradient, log_total, inner)
    (d_k, d_v), d_q = jax.lax.scan(one_query_tile, start, inputs)
    return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype), None


_tiled.defvjp(_tiled_forward, _tiled_backward)


def _one_row_of_owners(q: Int[Array, "R Q"], kv: Int[Array, "R N"]) -> tuple[Int[Array, "1 RQ"], Int[Array, "1 RN"]]:
    """Numbers the owners of all rows through, a row's padding last, so that rows can follow each other as one.

    No two rows share an owner then, and the owners still ascend.
    """
    most = jnp.maximum(jnp.max(q), jnp.max(kv)) + 1
    first = jnp.arange(q.shape[0], dtype=q.dtype)[:, None] * most
    q, kv = (first + jnp.where(owners == 0, most, owners) for owners in (q, kv))
    return q.reshape(1, -1), kv.reshape(1, -1)


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
    """Same as the dense backend; only one tile of scores for each row and head exists at a time.

    Args:
        q: queries, not yet scaled.
        k: keys.
        v: values.
        q_segment_ids: owner of each query.
        kv_segment_ids: owner of each key.
        window: keys seen on each side of the query, None for all.
        causal: whether keys after the query are hidden.
        tile: queries and keys in a tile; None chooses by platform.
    """
    if tile is None:
        tile = CPU_TILE if target_platform() == "cpu" else ACCELERATOR_TILE
    if target_platform() == "cpu" and q.shape[0] > 1:
        # Tiles of several rows would all be as many as the row with the longest clips needs: 1.35 times the time.
        shape = q.shape
        q, k, v = (x.reshape(1, -1, *x.shape[2:]) for x in (q, k, v))
        q_segment_ids, kv_segment_ids = _one_row_of_owners(q_segment_ids, kv_segment_ids)
        return chunked_attention(q, k, v, q_segment_ids, kv_segment_ids, window, causal, tile).reshape(shape)
    q_length, kv_length = q.shape[1], k.shape[1]
    geometry = Geometry(min(tile, q_length), min(tile, kv_length), window, causal)
    q_missing, kv_missing = -q_length % geometry.q_tile, -kv_length % geometry.kv_tile

    def longer(x: Array, missing: int, fill: int = 0) -> Array:
        return jnp.pad(x, ((0, 0), (0, missing)) + ((0, 0),) * (x.ndim - 2), constant_values=fill)

    q = longer(q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype), q_missing)
    k, v = longer(k, kv_missing), longer(v, kv_missing)
    # Segments -1 and -2 are nobody's: added queries see nothing, added keys are seen by nobody.
    owners = (longer(q_segment_ids, q_missing, -1), longer(kv_segment_ids, kv_missing, -2))
    q_owners, kv_owners = (
        x.reshape(x.shape[0], -1, size).transpose(1, 0, 2)
        for x, size in zip(owners, (geometry.q_tile, geometry.kv_tile), strict=True)
    )
    q, k, v = _tiles(q, geometry.q_tile), _tiles(k, geometry.kv_tile), _tiles(v, geometry.kv_tile)
    return _rows(_tiled(q, k, v, Segments(q_owners, kv_owners), geometry))[:, :q_length]
