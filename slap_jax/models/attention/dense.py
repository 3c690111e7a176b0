"""The reference backend: every query against every key, masked; also the core of the blocked one."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Finite, so that a masked score never makes `inf - inf`; far below any real score.
MASKED_SCORE = -1e30


def masked_attention(
    q: Float[Array, "*B Q H d"],
    k: Float[Array, "*B N H d"],
    v: Float[Array, "*B N H d"],
    allow: Bool[Array, "*B Q N"],
) -> Float[Array, "*B Q H d"]:
    """Softmax attention restricted to `allow`, softmax in fp32.

    Args:
        q: queries, not yet scaled.
        k: keys.
        v: values.
        allow: which keys each query sees; a query that sees none gets zeros.
    """
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    scores = jnp.einsum("...qhd,...nhd->...hqn", q, k, preferred_element_type=jnp.float32)
    allow = allow[..., None, :, :]
    scores = jnp.where(allow, scores, MASKED_SCORE)
    highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - highest)
    # Where a query sees no key, all its masked scores are the highest: such sums are dropped.
    total = jnp.where(highest[..., 0] > MASKED_SCORE, jnp.sum(weights, axis=-1), jnp.inf)
    # Dividing the result instead of the weights spares a pass over the largest tensor, forward and backward.
    out = jnp.einsum("...hqn,...nhd->...qhd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (out / jnp.swapaxes(total, -1, -2)[..., None]).astype(v.dtype)


def allowed(
    q_segments: Int[Array, "*B Q"],
    kv_segments: Int[Array, "*B N"],
    q_index: Int[Array, " Q"],
    kv_index: Int[Array, " N"],
    window: int | None,
    causal: bool,
) -> Bool[Array, "*B Q N"]:
    """The mask of the package's docstring, for queries and keys at the given places in the row."""
    allow = q_segments[..., :, None] == kv_segments[..., None, :]
    offset = kv_index[None, :] - q_index[:, None]
    if window is not None:
        allow &= jnp.abs(offset) <= window
    if causal:
        allow &= offset <= 0
    return allow


def dense_attention(
    q: Float[Array, "R Q H d"],
    k: Float[Array, "R N H d"],
    v: Float[Array, "R N H d"],
    q_segments: Int[Array, "R Q"],
    kv_segments: Int[Array, "R N"],
    window: int | None,
    causal: bool,
) -> Float[Array, "R Q H d"]:
    """Attention with the whole score matrix in memory: Q x N floats for each row and head."""
    allow = allowed(q_segments, kv_segments, jnp.arange(q.shape[1]), jnp.arange(k.shape[1]), window, causal)
    return masked_attention(q, k, v, allow)
