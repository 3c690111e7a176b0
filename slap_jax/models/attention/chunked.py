"""Global attention over one chunk of queries after another, recomputed in the backward pass: memory linear in the keys."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from slap_jax.models.attention.dense import allowed, masked_attention

CHUNK = 256  # queries at a time


def chunked_attention(
    q: Float[Array, "R Q H d"],
    k: Float[Array, "R N H d"],
    v: Float[Array, "R N H d"],
    q_segments: Int[Array, "R Q"],
    kv_segments: Int[Array, "R N"],
    window: int | None,
    causal: bool,
    chunk: int = CHUNK,
) -> Float[Array, "R Q H d"]:
    """Same as the dense backend, but only `chunk` x N scores for each row and head exist at a time."""
    rows, length, heads, dim = q.shape
    chunk = min(chunk, length)
    count = -(-length // chunk)
    missing = count * chunk - length
    if missing:
        q = jnp.pad(q, ((0, 0), (0, missing), (0, 0), (0, 0)))
        q_segments = jnp.pad(q_segments, ((0, 0), (0, missing)), constant_values=-1)
    kv_index = jnp.arange(k.shape[1])

    # The scores are not kept: the backward pass computes a chunk's again.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one_chunk(_: None, inputs: tuple[Array, Array, Array]) -> tuple[None, Array]:
        queries, segments, start = inputs
        allow = allowed(segments, kv_segments, start + jnp.arange(chunk), kv_index, window, causal)
        return None, masked_attention(queries, k, v, allow)

    chunks = (
        jnp.moveaxis(q.reshape(rows, count, chunk, heads, dim), 1, 0),
        jnp.moveaxis(q_segments.reshape(rows, count, chunk), 1, 0),
        jnp.arange(count) * chunk,
    )
    _, out = jax.lax.scan(one_chunk, None, chunks)
    return jnp.moveaxis(out, 0, 1).reshape(rows, count * chunk, heads, dim)[:, :length]
