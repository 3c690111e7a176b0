"""Local attention in blocks: each block of queries sees its own keys and `window` more on either side; pure XLA."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from slap_jax.models.attention.dense import masked_attention
from slap_jax.parallel.platform import target_platform


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
    kv_segments = _with_neighbours(segments + 2, window, after) - 2
    offset = jnp.arange(-window, size + after)[None, :] - jnp.arange(size)[:, None]
    near = (offset >= -window) & (offset <= after)
    allow = near & (segments[..., :, None] == kv_segments[..., None, :])
    out = masked_attention(q, k, v, allow)
    return out.reshape(rows, count * size, heads, dim)[:, :length]
