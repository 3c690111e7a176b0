"""The entry point of attention: chooses a backend and lets every device run it on its own rows and heads."""

from collections.abc import Callable

from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from slap_jax.models.attention.blocked import blocked_attention
from slap_jax.models.attention.chunked import chunked_attention
from slap_jax.models.attention.dense import dense_attention
from slap_jax.models.attention.select import select_backend
from slap_jax.parallel.per_device import axis_size, per_device
from slap_jax.parallel.platform import target_platform

Backend = Callable[..., Array]  # (q, k, v, q_segments, kv_segments, window, causal) -> [R, Q, H, d]


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
        backend: "auto", "dense", "blocked" (self-attention with a window), "chunked", "splash" (TPU) or "flash" (GPU).

    Returns:
        Weighted values in the type of `v`; zeros for a query that sees no key.

    Raises:
        AttentionError: the backend does not cover this kind of call, or does not run on this platform.
    """
    cross = kv_segments is not None
    chosen = select_backend(backend, q.shape[1], k.shape[1], window, causal, cross, target_platform())
    owners = q_segments if kv_segments is None else kv_segments
    return on_own_rows(_backend(chosen), q, k, v, q_segments, owners, window, causal)


def on_own_rows(
    backend: Backend,
    q: Float[Array, "R Q H d"],
    k: Float[Array, "R N H d"],
    v: Float[Array, "R N H d"],
    q_segments: Int[Array, "R Q"],
    kv_segments: Int[Array, "R N"],
    window: int | None,
    causal: bool,
) -> Float[Array, "R Q H d"]:
    """Runs a backend on every device of the mesh in context, with that device's rows and heads.

    XLA cannot cut a kernel over devices, and a loop whose length depends on the clips should depend on the device's
    own. An axis of the mesh that does not divide the rows (or heads) is left out: its devices repeat each other's work.

    Args:
        backend: the function.
        q: queries.
        k: keys.
        v: values.
        q_segments: owner of each query.
        kv_segments: owner of each key.
        window: keys seen on each side, None for all.
        causal: whether later keys are hidden.
    """
    rows, heads = q.shape[0], q.shape[2]
    both = axis_size("data") * axis_size("fsdp")
    row_axes = ("data", "fsdp") if rows % both == 0 else tuple(a for a in ("data",) if rows % axis_size(a) == 0)
    head_axis = "tensor" if heads % axis_size("tensor") == 0 else None
    tokens = PartitionSpec(row_axes or None, None, head_axis)
    owners = PartitionSpec(row_axes or None)

    def local(q: Array, k: Array, v: Array, q_segments: Array, kv_segments: Array) -> Array:
        return backend(q, k, v, q_segments, kv_segments, window, causal)

    return per_device(local, (tokens, tokens, tokens, owners, owners), tokens)(q, k, v, q_segments, kv_segments)


def _blocked(
    q: Array, k: Array, v: Array, segments: Array, _: Array, window: int | None, causal: bool
) -> Float[Array, "R L H d"]:
    assert window is not None
    return blocked_attention(q, k, v, segments, window, causal)


def _backend(name: str) -> Backend:
    # The kernels' imports take most of a second, so only programs that use them pay it.
    if name == "splash":
        from slap_jax.models.attention.splash import splash_attention

        return splash_attention
    if name == "flash":
        from slap_jax.models.attention.flash import flash_attention

        return flash_attention
    return {"dense": dense_attention, "chunked": chunked_attention, "blocked": _blocked}[name]
