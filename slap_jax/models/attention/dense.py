"""Two backends in plain XLA: the reference, which scores all pairs, and local attention block by block."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from slap_jax.parallel.sharding import target_platform

# Finite, so that masked scores never give `inf - inf`; far below any real score.
MASKED_SCORE = -1e30


def dense_attention(
    q: Float[Array, "R Q H d"],
    k: Float[Array, "R N H d"],
    v: Float[Array, "R N H d"],
    q_segment_ids: Int[Array, "R Q"],
    kv_segment_ids: Int[Array, "R N"],
    window: int | None,
    causal: bool,
) -> Float[Array, "R Q H d"]:
    """Attention with the whole score matrix in memory: Q x N floats for each row and head.

    `slap_jax.models.attention.attention` describes the arguments.
    """
    q_positions, kv_positions = jnp.arange(q.shape[1]), jnp.arange(k.shape[1])
    return masked_attention(
        q, k, v, segment_mask(q_segment_ids, kv_segment_ids, q_positions, kv_positions, window, causal)
    )


def blocked_attention(
    q: Float[Array, "R L H d"],
    k: Float[Array, "R L H d"],
    v: Float[Array, "R L H d"],
    segment_ids: Int[Array, "R L"],
    window: int,
    causal: bool,
) -> Float[Array, "R L H d"]:
    """Local self-attention with memory and time linear in L: a block of queries sees itself and `window` keys around.

    `slap_jax.models.attention.attention` describes the arguments.
    """
    rows, length, heads, dim = q.shape
    size = block_length(window)
    count = -(-length // size)
    missing = count * size - length
    if missing:
        q, k, v = (jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0))) for x in (q, k, v))
        # No token of the row has segment -1, so no query sees the padding.
        segment_ids = jnp.pad(segment_ids, ((0, 0), (0, missing)), constant_values=-1)
    after = 0 if causal else window
    q, k, v = (x.reshape(rows, count, size, heads, dim) for x in (q, k, v))
    segment_ids = segment_ids.reshape(rows, count, size)
    k, v = _with_neighbours(k, window, after), _with_neighbours(v, window, after)
    # Shifted by two, so that the zeros beyond the ends of the row differ from every id, -1 included.
    kv_segment_ids = _with_neighbours(segment_ids + 2, window, after) - 2
    offset = jnp.arange(-window, size + after)[None, :] - jnp.arange(size)[:, None]
    near = (offset >= -window) & (offset <= after)
    mask = near & (segment_ids[..., :, None] == kv_segment_ids[..., None, :])
    out = masked_attention(q, k, v, mask)
    return out.reshape(rows, count * size, heads, dim)[:, :length]


def segment_mask(
    q_segment_ids: Int[Array, "*B Q"],
    kv_segment_ids: Int[Array, "*B N"],
    q_positions: Int[Array, " Q"],
    kv_positions: Int[Array, " N"],
    window: int | None,
    causal: bool,
) -> Bool[Array, "*B Q N"]:
    """Returns the mask that the package's docstring defines, for queries and keys at these positions in the row."""
    mask = q_segment_ids[..., :, None] == kv_segment_ids[..., None, :]
    offset = kv_positions[None, :] - q_positions[:, None]
    if window is not None:
        mask &= jnp.abs(offset) <= window
    if causal:
        mask &= offset <= 0
    return mask


def masked_attention(
    q: Float[Array, "*B Q H d"],
    k: Float[Array, "*B N H d"],
    v: Float[Array, "*B N H d"],
    mask: Bool[Array, "*B Q N"],
) -> Float[Array, "*B Q H d"]:
    """Returns softmax(mask(q k^T / sqrt(d))) v with the softmax in fp32; zeros for a query that sees no key."""
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    scores = jnp.einsum("...qhd,...nhd->...hqn", q, k, preferred_element_type=jnp.float32)
    mask = mask[..., None, :, :]
    scores = jnp.where(mask, scores, MASKED_SCORE)
    m = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    p = jnp.exp(scores - m)
    # All masked scores of a query that sees no key are the maximum; an infinite sum makes its result 0.
    total = jnp.where(m[..., 0] > MASKED_SCORE, jnp.sum(p, axis=-1), jnp.inf)
    # Dividing the result instead of p saves a pass over the largest tensor, forward and backward.
    out = jnp.einsum("...hqn,...nhd->...qhd", p.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (out / jnp.swapaxes(total, -1, -2)[..., None]).astype(v.dtype)


def block_length(window: int) -> int:
    """Returns the number of queries in a block: at least a window, so that a block sees its direct neighbours only."""
    # Small blocks compute few masked scores; on an accelerator they must be large enough to fill its units.
    smallest = 32 if target_platform() == "cpu" else 128
    return max(smallest, -(-window // 32) * 32)


def _with_neighbours(blocks: Shaped[Array, "R B n ..."], before: int, after: int) -> Shaped[Array, "R B m ..."]:
    """Adds the last `before` elements of the previous block and the first `after` of the next to each block."""
    edge = jnp.zeros_like(blocks[:, :1])
    left = jnp.concatenate([edge, blocks[:, :-1]], axis=1)[:, :, blocks.shape[2] - before :]
    if after == 0:
        return jnp.concatenate([left, blocks], axis=2)
    right = jnp.concatenate([blocks[:, 1:], edge], axis=1)[:, :, :after]
    return jnp.concatenate([left, blocks, right], axis=2)
