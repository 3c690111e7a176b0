"""The reference backend: every query against every key, masked; also the core of the blocked one.

Local attention in blocks: each block of queries sees its own keys and `window` more on either side; pure XLA.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from slap_jax.parallel.sharding import target_platform

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
    q_segment_ids: Int[Array, "*B Q"],
    kv_segment_ids: Int[Array, "*B N"],
    q_index: Int[Array, " Q"],
    kv_index: Int[Array, " N"],
    window: int | None,
    causal: bool,
) -> Bool[Array, "*B Q N"]:
    """The mask of the package's docstring, for queries and keys at the given places in the row."""
    allow = q_segment_ids[..., :, None] == kv_segment_ids[..., None, :]
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
    q_segment_ids: Int[Array, "R Q"],
    kv_segment_ids: Int[Array, "R N"],
    window: int | None,
    causal: bool,
) -> Float[Array, "R Q H d"]:
    """Attention with the whole score matrix in memory: Q x N floats for each row and head."""
    allow = allowed(q_segment_ids, kv_segment_ids, jnp.arange(q.shape[1]), jnp.arange(k.shape[1]), window, causal)
    return masked_attention(q, k, v, allow)


def block_length(window: int) -> int:
    """Queries in a block: at least a window, so that the neighbours hold all that a block sees."""
    # Small blocks compute few masked scores; an accelerator needs them large enough to fill its units.
    smallest = 32 if target_platform() == "cpu" else 128
    return max(smallest, -(-window // 32) * 32)


def _with_neighbours(blocks: Shaped[Array, "R B n ..."], before: int, after: int) -> Shaped[Array, "R B m ..."]:
    """Puts the last `before` elements of the previous block and the first `after` of the next around each block."""
    edge = jnp.zeros_like(blocks[:, :1])
    left = jnp.concatenate([edge, blocks[:, :-1]], axis=1)[:, :, blocks.shape[2] - before :]
    if after == 0:
        return jnp.concatenate([left, blocks], axis=2)
    right = jnp.concatenate([blocks[:, 1:], edge], axis=1)[:, :, :after]
    return jnp.concatenate([left, blocks, right], axis=2)


def blocked_attention(
    q: Float[Array, "R L H d"],
    k: Float[Array, "R L H d"],
    v: Float[Array, "R L H d"],
    segments: Int[Array, "R L"],
    window: int,
    causal: bool,
) -> Float[Array, "R L H d"]:
    """Attention within `window`, with memory and time linear in L.

    Args:
        q: queries.
        k: keys, of the same places as the queries.
        v: values.
        segments: owner of each place.
        window: keys seen on each side, at most a block long.
        causal: whether keys after the query are hidden.
    """
    rows, length, heads, dim = q.shape
    size = block_length(window)
    count = -(-length // size)
    missing = count * size - length
    if missing:
        q, k, v = (jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0))) for x in (q, k, v))
        # Segment -1 is nobody's, so no query of the row sees the added places.
        segments = jnp.pad(segments, ((0, 0), (0, missing)), constant_values=-1)
    after = 0 if causal else window
    q, k, v = (x.reshape(rows, count, size, heads, dim) for x in (q, k, v))
    segments = segments.reshape(rows, count, size)
    k, v = _with_neighbours(k, window, after), _with_neighbours(v, window, after)
    # Shifted by two, so that the zeros beyond the ends of the row equal no segment, -1 included.
    kv_segment_ids = _with_neighbours(segments + 2, window, after) - 2
    offset = jnp.arange(-window, size + after)[None, :] - jnp.arange(size)[:, None]
    near = (offset >= -window) & (offset <= after)
    allow = near & (segments[..., :, None] == kv_segment_ids[..., None, :])
    out = masked_attention(q, k, v, allow)
    return out.reshape(rows, count * size, heads, dim)[:, :length]
