"""Attention on GPU: FlashAttention 2 in Pallas (Triton), over only those tiles that hold a clip of the queries.

The algorithm, and the letters m, l, acc, alpha and D, are those of `chunked.py`. Scores are kept in base 2, so that the
kernels compute p = 2^(s - m) with s = q . k log2(e) / sqrt(d).

`jax.experimental.pallas.ops.gpu.attention` cannot be used: it has one set of segment ids for queries and keys, so it
cannot read a memory of another length; a query without keys gets the mean of all values; and it visits every tile of a
row, most of which belong to other clips. Here the loop over keys covers the span of `tiles.tile_spans`, cut to the
window and to the past, so one kernel serves global, local, causal and cross-attention. In local layers the span also
keeps memory small: for 8 rows of 2,048 tokens and 12 heads of 64 (bf16, forward and backward, compiled for H100) it
needs 2 MB of temporaries, `blocked` 320 MB and `dense` 2,552 MB.

JAX 0.12 still compiles Pallas kernels through Triton but has deprecated it, and the alternative, Mosaic GPU, does not
support the A100. A replacement of this file should keep `flash_attention` and its tests.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Int

from slap_jax.models.attention.dense import MASKED_SCORE
from slap_jax.models.attention.tiles import (
    PADDED_KEY,
    PADDED_QUERY,
    PositionMask,
    SegmentIds,
    overlapping_tiles,
    pad_to_length,
    tile_spans,
)

# (queries, keys) in a tile, forward and backward. A program keeps its queries, results and one tile of scores in
# registers: FlashAttention 2 uses 128 x 64 for heads of 64, and the backward pass holds twice as much.
FORWARD_TILES, BACKWARD_TILES = (128, 64), (64, 64)
# A window is a few keys wide, so smaller tiles compute fewer masked scores; and heads larger than 128 leave no room for
# larger tiles.
SMALL_TILES, LARGEST_DIM = (64, 32), 128
SMALLEST_TILE = 16  # of the matrix units
LOG2_E = math.log2(math.e)


class KernelConfig(NamedTuple):
    """Static settings of the kernels.

    Attributes:
        mask: window and direction.
        forward: queries and keys in a tile of the forward pass.
        backward: the same for the backward pass.
        scale: log2(e) / sqrt(d), the factor on q . k.
        interpret: run the kernels as ordinary operations.
    """

    mask: PositionMask
    forward: tuple[int, int]
    backward: tuple[int, int]
    scale: float
    interpret: bool


def flash_attention(
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
    """Attention on GPU; memory is linear in the row, and so is time for clips of a given length.

    `slap_jax.models.attention.attention` describes the arguments. `tiles` is the number of queries and keys in a tile,
    powers of two from 16, None to choose by the kind of layer. For tests, `interpret` runs the kernels as ordinary
    operations on any device.
    """
    q_length, kv_length, dim = q.shape[1], k.shape[1], q.shape[-1]
    small = SMALL_TILES if window is not None or dim > LARGEST_DIM else None
    largest = (_power_of_two(q_length), _power_of_two(kv_length))
    forward, backward = (
        (min(choice[0], largest[0]), min(choice[1], largest[1]))
        for choice in (tiles or small or FORWARD_TILES, tiles or small or BACKWARD_TILES)
    )
    config = KernelConfig(PositionMask(window, causal), forward, backward, dim**-0.5 * LOG2_E, interpret)
    q_padded = -(-q_length // max(forward[0], backward[0])) * max(forward[0], backward[0])
    kv_padded = -(-kv_length // max(forward[1], backward[1])) * max(forward[1], backward[1])
    # Triton's tiles have sides that are powers of two; zeros appended to a head change no score.
    dim_padding = ((0, 0),) * 3 + ((0, _power_of_two(dim) - dim),)
    q, k, v = (
        jnp.pad(pad_to_length(x, n), dim_padding) if dim_padding[-1][1] else pad_to_length(x, n)
        for x, n in ((q, q_padded), (k, kv_padded), (v, kv_padded))
    )
    segment_ids = SegmentIds(
        pad_to_length(q_segment_ids, q_padded, PADDED_QUERY), pad_to_length(kv_segment_ids, kv_padded, PADDED_KEY)
    )
    out: Array = _flash(q, k, v, segment_ids, config)
    return out[:, :q_length, :, :dim]


def _power_of_two(length: int) -> int:
    return max(SMALLEST_TILE, 1 << (length - 1).bit_length())


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _flash(q: Array, k: Array, v: Array, segment_ids: SegmentIds, config: KernelConfig) -> Float[Array, "R Q H d"]:
    return _out_and_logsumexp(q, k, v, segment_ids, config)[0]


def _forward(q: Array, k: Array, v: Array, segment_ids: SegmentIds, config: KernelConfig) -> tuple[Array, tuple]:
    out, logsumexp = _out_and_logsumexp(q, k, v, segment_ids, config)
    return out, (q, k, v, segment_ids, out, logsumexp)


def _out_and_logsumexp(
    q: Array, k: Array, v: Array, segment_ids: SegmentIds, config: KernelConfig
) -> tuple[Float[Array, "R Q H d"], Float[Array, "R H Q"]]:
    (rows, q_length, heads, dim), kv_length = q.shape, k.shape[1]
    q_tile, kv_tile = config.forward
    starts, ends = tile_spans(overlapping_tiles(segment_ids.q, segment_ids.kv, q_tile, kv_tile, config.mask))
    out, logsumexp = _call(
        _forward_kernel,
        "forward",
        config,
        (q_length // q_tile, rows, heads),
        dim=dim,
        in_specs=_in_specs(q_tile, kv_length, dim, backward=False),
        out_specs=[_token_spec(q_tile, dim), _query_spec(q_tile)],
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, v.dtype),
            jax.ShapeDtypeStruct((rows, heads, q_length), jnp.float32),
        ],
    )(starts, ends, q, k, v, *segment_ids)
    # With these names a remat policy can save the results instead of running the kernel again.
    return checkpoint_name(out, "attention"), checkpoint_name(logsumexp, "attention")


def _backward(config: KernelConfig, residuals: tuple, d_out: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, segment_ids, out, logsumexp = residuals
    (rows, q_length, heads, dim), kv_length = q.shape, k.shape[1]
    q_tile, kv_tile = config.backward
    delta = jnp.einsum("rqhd,rqhd->rhq", d_out, out, preferred_element_type=jnp.float32)
    tiles = overlapping_tiles(segment_ids.q, segment_ids.kv, q_tile, kv_tile, config.mask)
    arguments = (q, k, v, *segment_ids, d_out, logsumexp, delta)
    d_q = _call(
        _query_gradient_kernel,
        "query_gradient",
        config,
        (q_length // q_tile, rows, heads),
        dim=dim,
        in_specs=_in_specs(q_tile, kv_length, dim),
        out_specs=_token_spec(q_tile, dim),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
    )(*tile_spans(tiles), *arguments)
    d_k, d_v = _call(
        _key_gradient_kernel,
        "key_gradient",
        config,
        (kv_length // kv_tile, rows, heads),
        dim=dim,
        in_specs=_in_specs(q_length, kv_tile, dim, by_key=True),
        out_specs=[_token_spec(kv_tile, dim)] * 2,
        out_shape=[jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)],
    )(*tile_spans(jnp.swapaxes(tiles, 1, 2)), *arguments)
    return d_q, d_k, d_v, None


_flash.defvjp(_forward, _backward)


# The kernels. A program computes one tile of queries, or of keys, of one head of one row.


def _forward_kernel(
    start_ref, end_ref, q_ref, k_ref, v_ref, q_ids_ref, kv_ids_ref, out_ref, logsumexp_ref, *, config: KernelConfig
) -> None:
    """Computes the result and the base-2 logsumexp of one tile of queries."""
    q_tile, kv_tile = config.forward
    q, q_ids = q_ref[...], q_ids_ref[...]
    q_positions = pl.program_id(0) * q_tile + jnp.arange(q_tile)

    def key_loop(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        m_prev, l_prev, acc = carry
        tile = pl.ds(j * kv_tile, kv_tile)
        kv_positions = j * kv_tile + jnp.arange(kv_tile)
        s = _product(q, k_ref[tile, :].T)
        s = _masked(s, (q_positions[:, None], kv_positions[None]), (q_ids[:, None], kv_ids_ref[tile][None]), config)
        m_next = jnp.maximum(m_prev, s.max(axis=1))
        alpha, p = jnp.exp2(m_prev - m_next), jnp.exp2(s - m_next[:, None])
        pv = _product(p.astype(v_ref.dtype), v_ref[tile, :])
        return m_next, l_prev * alpha + p.sum(axis=1), acc * alpha[:, None] + pv

    init = (jnp.full((q_tile,), MASKED_SCORE, jnp.float32), jnp.zeros((q_tile,), jnp.float32))
    init = (*init, jnp.zeros(q.shape, jnp.float32))
    m, total, acc = jax.lax.fori_loop(start_ref[...], end_ref[...], key_loop, init)
    # A query that sees no key has summed p = 2^0 of masked scores, or nothing; its sums are dropped.
    seen = m > MASKED_SCORE
    total = jnp.where(seen, total, 1.0)
    out_ref[...] = jnp.where(seen[:, None], acc / total[:, None], 0.0).astype(out_ref.dtype)
    logsumexp_ref[...] = jnp.where(seen, m + jnp.log2(total), -MASKED_SCORE)


def _query_gradient_kernel(
    start_ref,
    end_ref,
    q_ref,
    k_ref,
    v_ref,
    q_ids_ref,
    kv_ids_ref,
    d_out_ref,
    logsumexp_ref,
    delta_ref,
    d_q_ref,
    *,
    config: KernelConfig,
) -> None:
    """Computes d_q of one tile of queries."""
    q_tile, kv_tile = config.backward
    q, q_ids, d_out = q_ref[...], q_ids_ref[...], d_out_ref[...]
    logsumexp, delta = logsumexp_ref[...], delta_ref[...]
    q_positions = pl.program_id(0) * q_tile + jnp.arange(q_tile)

    def key_loop(j: Array, d_q: Array) -> Array:
        tile = pl.ds(j * kv_tile, kv_tile)
        kv_positions = j * kv_tile + jnp.arange(kv_tile)
        k, ids = k_ref[tile, :], (q_ids[:, None], kv_ids_ref[tile][None])
        s = _masked(_product(q, k.T), (q_positions[:, None], kv_positions[None]), ids, config)
        p = jnp.exp2(s - logsumexp[:, None])
        d_s = p * (_product(d_out, v_ref[tile, :].T) - delta[:, None])
        return d_q + _product(d_s.astype(k.dtype), k)

    d_q = jax.lax.fori_loop(start_ref[...], end_ref[...], key_loop, jnp.zeros(q.shape, jnp.float32))
    d_q_ref[...] = (d_q * (config.scale / LOG2_E)).astype(d_q_ref.dtype)


def _key_gradient_kernel(
    start_ref,
    end_ref,
    q_ref,
    k_ref,
    v_ref,
    q_ids_ref,
    kv_ids_ref,
    d_out_ref,
    logsumexp_ref,
    delta_ref,
    d_k_ref,
    d_v_ref,
    *,
    config: KernelConfig,
) -> None:
    """Computes d_k and d_v of one tile of keys; scores are transposed, [keys, queries], as both products need them."""
    q_tile, kv_tile = config.backward
    k, v, kv_ids = k_ref[...], v_ref[...], kv_ids_ref[...]
    kv_positions = pl.program_id(0) * kv_tile + jnp.arange(kv_tile)

    def query_loop(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        d_k, d_v = carry
        tile = pl.ds(i * q_tile, q_tile)
        q_positions = i * q_tile + jnp.arange(q_tile)
        q, d_out = q_ref[tile, :], d_out_ref[tile, :]
        ids = (q_ids_ref[tile][None], kv_ids[:, None])
        s = _masked(_product(k, q.T), (q_positions[None], kv_positions[:, None]), ids, config)
        p = jnp.exp2(s - logsumexp_ref[tile][None])
        d_v = d_v + _product(p.astype(d_out.dtype), d_out)
        d_s = p * (_product(v, d_out.T) - delta_ref[tile][None])
        return d_k + _product(d_s.astype(q.dtype), q), d_v

    init = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32))
    d_k, d_v = jax.lax.fori_loop(start_ref[...], end_ref[...], query_loop, init)
    d_k_ref[...] = (d_k * (config.scale / LOG2_E)).astype(d_k_ref.dtype)
    d_v_ref[...] = d_v.astype(d_v_ref.dtype)


def _product(a: Array, b: Array) -> Float[Array, "m n"]:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _masked(scores: Array, positions: tuple[Any, Any], segment_ids: tuple[Array, Array], config: KernelConfig) -> Array:
    """Scales and masks scores; positions and ids are (of queries, of keys), broadcast against the scores."""
    mask = segment_ids[0] == segment_ids[1]
    if not config.mask.is_trivial:
        mask &= config.mask(*positions)
    return jnp.where(mask, scores * config.scale, MASKED_SCORE)


# Calling the kernels. The grid is (tiles, rows, heads).


def _call(kernel: Any, name: str, config: KernelConfig, grid: tuple[int, int, int], **specs: Any) -> Any:
    return pl.pallas_call(
        functools.partial(kernel, config=config),
        grid=grid,
        name=f"flash_attention_{name}",
        interpret=config.interpret,
        # FlashAttention 2 uses four warps and two pipeline stages for heads of up to 64.
        compiler_params=plgpu.CompilerParams(num_warps=4 if specs.pop("dim") <= 64 else 8, num_stages=2),
        **specs,
    )


def _in_specs(q: int, kv: int, dim: int, *, by_key: bool = False, backward: bool = True) -> list[pl.BlockSpec]:
    """Returns the specs of start, end, q, k, v and both segment ids; in the backward pass of d_out, logsumexp, delta.

    Args:
        q: queries in a tile, or in the row if `by_key`.
        kv: keys in the row, or in a tile if `by_key`.
        dim: d.
        by_key: whether a program owns a tile of keys and loops over queries, instead of the reverse.
        backward: whether the kernel computes gradients.
    """
    queries, keys = _token_spec(q, dim, whole_row=by_key), _token_spec(kv, dim, whole_row=not by_key)
    span = pl.BlockSpec((None, None), lambda i, r, h: (r, i))  # of [R, A], one number
    ids = [_id_spec(q, whole_row=by_key), _id_spec(kv, whole_row=not by_key)]
    specs = [span, span, queries, keys, keys, *ids]
    return [*specs, queries, *[_query_spec(q, whole_row=by_key)] * 2] if backward else specs


def _token_spec(length: int, dim: int, *, whole_row: bool = False) -> pl.BlockSpec:
    """Of [R, L, H, d], the program's tile of its head, or the whole row of its head."""
    return pl.BlockSpec((None, length, None, dim), lambda i, r, h: (r, 0 if whole_row else i, h, 0))


def _id_spec(length: int, *, whole_row: bool = False) -> pl.BlockSpec:
    """Of [R, L], the segment ids of the program's tile, or of its row."""
    return pl.BlockSpec((None, length), lambda i, r, h: (r, 0 if whole_row else i))


def _query_spec(length: int, *, whole_row: bool = False) -> pl.BlockSpec:
    """Of [R, H, Q], one number for each query of the program's tile, or of its row."""
    return pl.BlockSpec((None, None, length), lambda i, r, h: (r, h, 0 if whole_row else i))
