"""The entry point of attention."""

from jaxtyping import Array, Float, Int

from slap_jax.models.attention.blocked import blocked_attention
from slap_jax.models.attention.chunked import chunked_attention
from slap_jax.models.attention.dense import dense_attention
from slap_jax.models.attention.select import select_backend
from slap_jax.parallel.platform import target_platform


def attention(
    q: Float[Array, "R Q H d"],
    k: Float[Array, "R N H d"],
    v: Float[Array, "R N H d"],
    *,
    q_segments: Int[Array, "R Q"],
    kv_segments: Int[Array, "R N"] | None = None,
    window: int | None = None,
    causal: bool = False,
    backend: str = "auto",
) -> Float[Array, "R Q H d"]:
    """Attention between tokens of the same segment; the package's docstring defines the mask.

    Args:
        q: queries; they are scaled by `d ** -0.5` here.
        k: keys.
        v: values.
        q_segments: owner of each query, 0 for padding.
        kv_segments: owner of each key; None for self-attention.
        window: keys seen on each side of the query; None for all of the segment.
        causal: whether keys after the query are hidden.
        backend: "auto", "dense", "blocked" (self-attention with a window) or "chunked".

    Returns:
        Weighted values in the type of `v`; zeros for a query that sees no key.

    Raises:
        AttentionError: the backend does not cover this kind of call.
    """
    cross = kv_segments is not None
    chosen = select_backend(backend, q.shape[1], k.shape[1], window, causal, cross, target_platform())
    if chosen == "blocked":
        assert window is not None
        return blocked_attention(q, k, v, q_segments, window, causal)
    kernel = chunked_attention if chosen == "chunked" else dense_attention
    return kernel(q, k, v, q_segments, q_segments if kv_segments is None else kv_segments, window, causal)
