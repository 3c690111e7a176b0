"""Attention on GPU: a FlashAttention kernel in Pallas (Triton) that looks only at the tiles a query's clip can be in.

The algorithm is FlashAttention's (Dao 2023, algorithms 1 and 2). `jax.experimental.pallas.ops.gpu.attention`, the
nearest thing in JAX, has one set of owners for queries and keys, so it cannot read a memory of another length; gives a
query without keys a mean of all values; and visits every tile of a row, most of which belong to other clips. Here the
loop over keys is bounded by the run of tiles that holds the clips of the queries (`slap_jax.models.attention.tiles`),
cut to the window and to the past, so that one kernel serves global, causal and cross-attention, and local layers as a
band. The band is also what keeps memory small there: of 8 rows of 2,048 tokens and 12 heads of 64 (bf16, forward and
backward, compiled for H100) it holds 2 MB of temporaries, the blocks of plain XLA 320 MB, the dense backend 2,552 MB.

JAX 0.12 still compiles Pallas kernels through Triton but announces their end; the other way, Mosaic GPU, does not reach
the A100. Whoever replaces this file keeps `flash_attention` and its tests.
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
from slap_jax.models.attention.tiles import NO_KEY, NO_QUERY, Mask, longer, overlap, run

# (queries, keys) in a tile, forward and backward. A program keeps its queries, results and one tile of scores in
# registers: 128 x 64 is what FlashAttention 2 takes for heads of 64 numbers, and its backward pass holds twice as much.
FORWARD_TILES, BACKWARD_TILES = (128, 64), (64, 64)
# A window is a few keys wide, so smaller tiles compute fewer scores for nothing; and heads of more than 128 numbers
# leave room for no larger ones.
SMALL_TILES, LARGEST_DIM = (64, 32), 128
SMALLEST_TILE = 16  # of the matrix units
LOG2_E = math.log2(math.e)


class Geometry(NamedTuple):
    """What is known when the program is traced.

    Attributes:
        mask: window and direction.
        forward: queries and keys in a tile of the forward pass.
        backward: the same of the backward pass.
        scale: factor on scores, so that 2 to their power are the weights.
        interpret: run the kernels as ordinary operations.
    """

    mask: Mask
    forward: tuple[int, int]
    backward: tuple[int, int]
    scale: float
    interpret: bool


class Owners(NamedTuple):
    """Owner of each query and of each key."""

    q: Int[Array, "R Q"]
    kv: Int[Array, "R N"]


def _product(a: Array, b: Array) -> Float[Array, "m n"]:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _masked(scores: Array, places: tuple[Any, Any], owners: tuple[Array, Array], geometry: Geometry) -> Array:
    """Scales scores and hides those of pairs that are not allowed; queries along either axis."""
    allow = owners[0] == owners[1]
    if not geometry.mask.free:
        allow &= geometry.mask(*places)
    return jnp.where(allow, scores * geometry.scale, MASKED_SCORE)


def _forward_kernel(
    first_ref, last_ref, q_ref, k_ref, v_ref, q_owners_ref, kv_owners_ref, out_ref, log_ref, *, geometry: Geometry
) -> None:
    """One tile of queries of one head: result, and log2 of each query's sum of exponentials."""
    q_tile, kv_tile = geometry.forward
    query, q_owners = q_ref[...], q_owners_ref[...]
    q_index = pl.program_id(0) * q_tile + jnp.arange(q_tile)

    def one_key_tile(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        highest, total, summed = carry
        tile = pl.ds(j * kv_tile, kv_tile)
        kv_index = j * kv_tile + jnp.arange(kv_tile)
        owners = (q_owners[:, None], kv_owners_ref[tile][None])
        scores = _product(query, k_ref[tile, :].T)
        scores = _masked(scores, (q_index[:, None], kv_index[None]), owners, geometry)
        raised = jnp.maximum(highest, scores.max(axis=1))
        fade, weights = jnp.exp2(highest - raised), jnp.exp2(scores - raised[:, None])
        added = _product(weights.astype(v_ref.dtype), v_ref[tile, :])
        return raised, total * fade + weights.sum(axis=1), summed * fade[:, None] + added

    start = (jnp.full((q_tile,), MASKED_SCORE, jnp.float32), jnp.zeros((q_tile,), jnp.float32))
    start = (*start, jnp.zeros(query.shape, jnp.float32))
    highest, total, summed = jax.lax.fori_loop(first_ref[...], last_ref[...], one_key_tile, start)
    # A query that sees no key has summed weights of masked scores, or nothing: both are dropped.
    seen = highest > MASKED_SCORE
    total = jnp.where(seen, total, 1.0)
    out_ref[...] = jnp.where(seen[:, None], summed / total[:, None], 0.0).astype(out_ref.dtype)
    log_ref[...] = jnp.where(seen, highest + jnp.log2(total), -MASKED_SCORE)


def _query_gradient_kernel(
    first_ref,
    last_ref,
    q_ref,
    k_ref,
    v_ref,
    q_owners_ref,
    kv_owners_ref,
    d_out_ref,
    log_ref,
    inner_ref,
    d_q_ref,
    *,
    geometry: Geometry,
) -> None:
    """The gradient of one tile of queries of one head."""
    q_tile, kv_tile = geometry.backward
    query, q_owners, d_out = q_ref[...], q_owners_ref[...], d_out_ref[...]
    log_sum, inner = log_ref[...], inner_ref[...]
    q_index = pl.program_id(0) * q_tile + jnp.arange(q_tile)

    def one_key_tile(j: Array, d_query: Array) -> Array:
        tile = pl.ds(j * kv_tile, kv_tile)
        kv_index = j * kv_tile + jnp.arange(kv_tile)
        key, owners = k_ref[tile, :], (q_owners[:, None], kv_owners_ref[tile][None])
        scores = _masked(_product(query, key.T), (q_index[:, None], kv_index[None]), owners, geometry)
        weights = jnp.exp2(scores - log_sum[:, None])
        d_scores = weights * (_product(d_out, v_ref[tile, :].T) - inner[:, None])
        return d_query + _product(d_scores.astype(key.dtype), key)

    start = jnp.zeros(query.shape, jnp.float32)
    d_query = jax.lax.fori_loop(first_ref[...], last_ref[...], one_key_tile, start)
    d_q_ref[...] = (d_query * (geometry.scale / LOG2_E)).astype(d_q_ref.dtype)


def _key_gradient_kernel(
    first_ref,
    last_ref,
    q_ref,
    k_ref,
    v_ref,
    q_owners_ref,
    kv_owners_ref,
    d_out_ref,
    log_ref,
    inner_ref,
    d_k_ref,
    d_v_ref,
    *,
    geometry: Geometry,
) -> None:
    """The gradients of one tile of keys and values of one head; scores lie transposed, as both need them."""
    q_tile, kv_tile = geometry.backward
    key, value, kv_owners = k_ref[...], v_ref[...], kv_owners_ref[...]
    kv_index = pl.program_id(0) * kv_tile + jnp.arange(kv_tile)

    def one_query_tile(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        d_key, d_value = carry
        tile = pl.ds(i * q_tile, q_tile)
        q_index = i * q_tile + jnp.arange(q_tile)
        query, d_out = q_ref[tile, :], d_out_ref[tile, :]
        owners = (q_owners_ref[tile][None], kv_owners[:, None])
        scores = _masked(_product(key, query.T), (q_index[None], kv_index[:, None]), owners, geometry)
        weights = jnp.exp2(scores - log_ref[tile][None])
        d_value = d_value + _product(weights.astype(d_out.dtype), d_out)
        d_scores = weights * (_product(value, d_out.T) - inner_ref[tile][None])
        return d_key + _product(d_scores.astype(query.dtype), query), d_value

    start = (jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32))
    d_key, d_value = jax.lax.fori_loop(first_ref[...], last_ref[...], one_query_tile, start)
    d_k_ref[...] = (d_key * (geometry.scale / LOG2_E)).astype(d_k_ref.dtype)
    d_v_ref[...] = d_value.astype(d_v_ref.dtype)


_RUN = pl.BlockSpec((None, None), lambda i, r, h: (r, i))  # of [R, A]: one number of a program


def _tokens(length: int, dim: int, *, whole: bool = False) -> pl.BlockSpec:
    """Of [R, L, H, d], a program's tile of its head, or the whole row to load tile by tile."""
    return pl.BlockSpec((None, length, None, dim), lambda i, r, h: (r, 0 if whole else i, h, 0))


def _owners(length: int, *, whole: bool = False) -> pl.BlockSpec:
    """Of [R, L], the owners of a program's tile, or of its row."""
    return pl.BlockSpec((None, length), lambda i, r, h: (r, 0 if whole else i))


def _numbers(length: int, *, whole: bool = False) -> pl.BlockSpec:
    """Of [R, H, Q], one number for each query of a program's tile, or of its row."""
    return pl.BlockSpec((None, None, length), lambda i, r, h: (r, h, 0 if whole else i))


def _inputs(q: int, kv: int, dim: int, *, by_key: bool = False, backward: bool = True) -> list[pl.BlockSpec]:
    """What every kernel reads: its run, queries, keys, values and owners; gradients also the forward pass's results.

    Args:
        q: queries in a tile, or in the row `by_key`.
        kv: keys in the row, or in a tile `by_key`.
        dim: d.
        by_key: whether a program has a tile of keys and goes over queries, or the other way round.
        backward: whether it computes gradients.
    """
    queries, keys = _tokens(q, dim, whole=by_key), _tokens(kv, dim, whole=not by_key)
    specs = [_RUN, _RUN, queries, keys, keys, _owners(q, whole=by_key), _owners(kv, whole=not by_key)]
    return [*specs, queries, *[_numbers(q, whole=by_key)] * 2] if backward else specs


def _call(kernel: Any, name: str, geometry: Geometry, grid: tuple[int, int, int], **specs: Any) -> Any:
    return pl.pallas_call(
        functools.partial(kernel, geometry=geometry),
        grid=grid,
        name=f"flash_attention_{name}",
        interpret=geometry.interpret,
        # Four warps and two stages of loads ahead are FlashAttention's choice for heads of up to 64 numbers.
        compiler_params=plgpu.CompilerParams(num_warps=4 if specs.pop("dim") <= 64 else 8, num_stages=2),
        **specs,
    )


def _forward(q: Array, k: Array, v: Array, owners: Owners, geometry: Geometry) -> tuple[Array, Array]:
    (rows, q_length, heads, dim), kv_length = q.shape, k.shape[1]
    q_tile, kv_tile = geometry.forward
    first, last = run(overlap(owners.q, owners.kv, q_tile, kv_tile, geometry.mask))
    out, log_sum = _call(
        _forward_kernel,
        "forward",
        geometry,
        (q_length // q_tile, rows, heads),
        dim=dim,
        in_specs=_inputs(q_tile, kv_length, dim, backward=False),
        out_specs=[_tokens(q_tile, dim), _numbers(q_tile)],
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, v.dtype),
            jax.ShapeDtypeStruct((rows, heads, q_length), jnp.float32),
        ],
    )(first, last, q, k, v, *owners)
    # A remat policy may keep what has this name instead of running the kernel again.
    return checkpoint_name(out, "attention"), checkpoint_name(log_sum, "attention")


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _flash(q: Array, k: Array, v: Array, owners: Owners, geometry: Geometry) -> Float[Array, "R Q H d"]:
    return _forward(q, k, v, owners, geometry)[0]


def _flash_forward(q: Array, k: Array, v: Array, owners: Owners, geometry: Geometry) -> tuple[Array, tuple]:
    out, log_sum = _forward(q, k, v, owners, geometry)
    return out, (q, k, v, owners, out, log_sum)


def _flash_backward(geometry: Geometry, saved: tuple, d_out: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, owners, out, log_sum = saved
    (rows, q_length, heads, dim), kv_length = q.shape, k.shape[1]
    q_tile, kv_tile = geometry.backward
    inner = jnp.einsum("rqhd,rqhd->rhq", d_out, out, preferred_element_type=jnp.float32)
    tiles = overlap(owners.q, owners.kv, q_tile, kv_tile, geometry.mask)
    arguments = (q, k, v, *owners, d_out, log_sum, inner)
    d_q = _call(
        _query_gradient_kernel,
        "query_gradient",
        geometry,
        (q_length // q_tile, rows, heads),
        dim=dim,
        in_specs=_inputs(q_tile, kv_length, dim),
        out_specs=_tokens(q_tile, dim),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
    )(*run(tiles), *arguments)
    d_k, d_v = _call(
        _key_gradient_kernel,
        "key_gradient",
        geometry,
        (kv_length // kv_tile, rows, heads),
        dim=dim,
        in_specs=_inputs(q_length, kv_tile, dim, by_key=True),
        out_specs=[_tokens(kv_tile, dim)] * 2,
        out_shape=[jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)],
    )(*run(jnp.swapaxes(tiles, 1, 2)), *arguments)
    return d_q, d_k, d_v, None


_flash.defvjp(_flash_forward, _flash_backward)


def _power_of_two(length: int) -> int:
    return max(SMALLEST_TILE, 1 << (length - 1).bit_length())


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
    """Same as the dense backend, on GPU; memory linear in the row, time linear in it for clips of a given length.

    Args:
        q: queries, not yet scaled.
        k: keys.
        v: values.
        q_segment_ids: owner of each query.
        kv_segment_ids: owner of each key.
        window: keys seen on each side of the query, None for all.
        causal: whether keys after the query are hidden.
        tiles: queries and keys in a tile, powers of two from 16 up; None chooses by the kind of layer.
        interpret: run the kernels as ordinary operations, on any device; for tests.
    """
    length, dim = q.shape[1], q.shape[-1]
    small = SMALL_TILES if window is not None or dim > LARGEST_DIM else None
    shortest = (_power_of_two(length), _power_of_two(k.shape[1]))
    forward, backward = (
        (min(choice[0], shortest[0]), min(choice[1], shortest[1]))
        for choice in (tiles or small or FORWARD_TILES, tiles or small or BACKWARD_TILES)
    )
    geometry = Geometry(Mask(window, causal), forward, backward, dim**-0.5 * LOG2_E, interpret)
    q_length = -(-length // max(forward[0], backward[0])) * max(forward[0], backward[0])
    kv_length = -(-k.shape[1] // max(forward[1], backward[1])) * max(forward[1], backward[1])
    # The kernel's tiles have sides that are powers of two; zeros beyond a head's numbers change no score.
    wider = ((0, 0),) * 3 + ((0, _power_of_two(dim) - dim),)
    q, k, v = (
        jnp.pad(longer(x, n), wider) if wider[-1][1] else longer(x, n)
        for x, n in ((q, q_length), (k, kv_length), (v, kv_length))
    )
    owners = Owners(longer(q_segment_ids, q_length, NO_QUERY), longer(kv_segment_ids, kv_length, NO_KEY))
    out: Array = _flash(q, k, v, owners, geometry)
    return out[:, :length, :, :dim]
