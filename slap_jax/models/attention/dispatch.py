"""The entry point of attention: chooses a backend and runs it on every device's own rows and heads.

Reading order: `attention`, `select_backend`, `on_local_shards`.
"""

import contextlib
import contextvars
import logging
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from slap_jax.errors import UserError
from slap_jax.models.attention.chunked import chunked_attention
from slap_jax.models.attention.dense import blocked_attention, dense_attention
from slap_jax.parallel.sharding import BATCH_AXES, axis_size, shard_map_if_mesh, target_platform

BACKENDS = ("auto", "dense", "blocked", "chunked", "splash", "flash")

# Kernels written for one platform; every other backend runs on all.
PLATFORMS = {"splash": "tpu", "flash": "gpu"}

# Largest number of scores per row and head for which `dense` is chosen. On a CPU it is the faster backend up to here
# (R=8, H=6, d=32, forward and backward: 128 x 128 takes 2.7 ms against 4.7 chunked, 256 x 256 15.5 against 14.8, and
# 512 x 512 100 against 50). On accelerators the memory of the score matrix sets the bound.
DENSE_SCORES = {"cpu": 192 * 192}
DENSE_SCORES_ELSEWHERE = 1_536 * 1_536

# Smallest number of queries and of keys for which a platform's kernel is chosen. Shorter rows (a short clip, a caption,
# one token of decoding) would fill only part of one or two tiles.
KERNEL_LENGTH = 256

Backend = Callable[..., Array]  # (q, k, v, q_segment_ids, kv_segment_ids, window, causal) -> [R, Q, H, d]


class AttentionError(UserError, ValueError):
    """The attention backend cannot compute this kind of call."""


class Choice(NamedTuple):
    """One kind of attention call and the backend that computes it.

    Attributes:
        backend: "dense", "blocked", "chunked", "splash" or "flash".
        reason: why, in words.
        kind: "global", "local", "causal", "local causal" or "cross".
        q_length: queries in a row.
        kv_length: keys in a row.
        window: keys seen on each side of the query, None for all.
        platform: the platform that the program is compiled for.
    """

    backend: str
    reason: str
    kind: str
    q_length: int
    kv_length: int
    window: int | None
    platform: str


def attention(
    q: Float[Array, "R Q H d"],
    k: Float[Array, "R N H d"],
    v: Float[Array, "R N H d"],
    *,
    q_segment_ids: Int[Array, "R Q"],
    kv_segment_ids: Int[Array, "R N"] | None = None,
    window: int | None = None,
    causal: bool = False,
    backend: str = "auto",
) -> Float[Array, "R Q H d"]:
    """Attention between tokens of the same segment; the package's docstring has the equations.

    Args:
        q: queries; they are scaled by `d ** -0.5` here.
        k: keys.
        v: values.
        q_segment_ids: segment of each query, 0 for padding.
        kv_segment_ids: segment of each key; None for self-attention.
        window: keys seen on each side of the query; None for all of the segment.
        causal: whether keys after the query are hidden.
        backend: "auto", "dense", "blocked" (self-attention with a window), "chunked", "splash" (TPU) or "flash" (GPU).

    Returns:
        Weighted values in the dtype of `v`; zeros for a query that sees no key.

    Raises:
        AttentionError: the backend does not cover this kind of call, or does not run on this platform.
    """
    cross = kv_segment_ids is not None
    chosen = select_backend(backend, q.shape[1], k.shape[1], window, causal, cross, target_platform())
    kv_segment_ids = q_segment_ids if kv_segment_ids is None else kv_segment_ids
    return on_local_shards(_backend(chosen), q, k, v, q_segment_ids, kv_segment_ids, window, causal)


def select_backend(
    backend: str, q_length: int, kv_length: int, window: int | None, causal: bool, cross: bool, platform: str
) -> str:
    """Chooses a backend, and logs the choice and its reason once per kind of call, for all lengths.

    Args:
        backend: one of `BACKENDS`; any but "auto" is used as given, or is an error.
        q_length: queries in a row.
        kv_length: keys in a row.
        window: keys seen on each side, None for all.
        causal: whether later keys are hidden.
        cross: whether keys and queries belong to different sequences.
        platform: "cpu", "gpu" or "tpu": the platform that the program is compiled for.

    Returns:
        One of `BACKENDS` other than "auto".

    Raises:
        AttentionError: the backend is unknown, does not cover this kind of call, or runs on another platform.
    """
    _check(backend, window, causal, cross, platform)
    if backend == "auto":
        chosen, reason = _automatic(q_length, kv_length, window, platform)
    else:
        chosen, reason = backend, "forced by the configuration"
    kind = "cross" if cross else " ".join(["local"] * (window is not None) + ["causal"] * causal) or "global"
    choice = Choice(chosen, reason, kind, q_length, kv_length, window, platform)
    for choices in _RECORDS.get():
        if choice not in choices:
            choices.append(choice)
    _log(choice)
    return chosen


def _check(backend: str, window: int | None, causal: bool, cross: bool, platform: str) -> None:
    if backend not in BACKENDS:
        raise AttentionError(f"attention backend {backend!r} is unknown; write one of {', '.join(BACKENDS)}")
    if window is not None and window < 0:
        raise AttentionError(f"attention window is {window}; write 0 or more, or None for global attention")
    if cross and (window is not None or causal):
        raise AttentionError("a window or a causal mask needs queries and keys of one sequence, not cross-attention")
    if backend == "blocked" and (window is None or cross):
        raise AttentionError("backend 'blocked' computes local self-attention only; use 'dense' or 'chunked' here")
    if PLATFORMS.get(backend, platform) != platform:
        available = [name for name in BACKENDS if PLATFORMS.get(name, platform) == platform]
        raise AttentionError(
            f"config.model.attention is {backend!r}, a kernel for {PLATFORMS[backend].upper()}s, but the program is "
            f"compiled for {platform}; write 'auto', or one of {', '.join(available[1:])}"
        )


def _automatic(q_length: int, kv_length: int, window: int | None, platform: str) -> tuple[str, str]:
    """Returns the backend and the reason."""
    if min(q_length, kv_length) >= KERNEL_LENGTH:
        for name, kernel_platform in PLATFORMS.items():
            if kernel_platform == platform:
                return name, "the platform's kernel skips tiles without a common clip and keeps no scores"
    if window is not None and q_length > 4 * max(window, 16):
        return "blocked", "local attention over many windows"
    if q_length * kv_length <= DENSE_SCORES.get(platform, DENSE_SCORES_ELSEWHERE):
        return "dense", "the score matrix is small"
    return "chunked", "the score matrix is large"


def _backend(name: str) -> Backend:
    # Importing the kernels takes most of a second, so only programs that use them import them.
    if name == "splash":
        from slap_jax.models.attention.splash import splash_attention

        return splash_attention
    if name == "flash":
        from slap_jax.models.attention.flash import flash_attention

        return flash_attention
    return {"dense": dense_attention, "chunked": chunked_attention, "blocked": _blocked}[name]


def _blocked(
    q: Array, k: Array, v: Array, segment_ids: Array, _: Array, window: int | None, causal: bool
) -> Float[Array, "R L H d"]:
    assert window is not None
    return blocked_attention(q, k, v, segment_ids, window, causal)


def on_local_shards(
    backend: Backend,
    q: Float[Array, "R Q H d"],
    k: Float[Array, "R N H d"],
    v: Float[Array, "R N H d"],
    q_segment_ids: Int[Array, "R Q"],
    kv_segment_ids: Int[Array, "R N"],
    window: int | None,
    causal: bool,
) -> Float[Array, "R Q H d"]:
    """Runs a backend on every device of the mesh in context, with that device's rows and heads.

    XLA cannot partition a kernel, and a loop whose length depends on the clips should depend on the device's own clips.
    If a mesh axis does not divide the rows (or heads), they are not split over it, and its devices repeat the work.
    """
    rows, heads = q.shape[0], q.shape[2]
    candidates = (BATCH_AXES, BATCH_AXES[:1], ())
    row_axes = next(axes for axes in candidates if rows % math.prod(map(axis_size, axes)) == 0)
    head_axis = "tensor" if heads % axis_size("tensor") == 0 else None
    token_spec = PartitionSpec(row_axes or None, None, head_axis)
    id_spec = PartitionSpec(row_axes or None)

    def local(q: Array, k: Array, v: Array, q_segment_ids: Array, kv_segment_ids: Array) -> Array:
        return backend(q, k, v, q_segment_ids, kv_segment_ids, window, causal)

    return shard_map_if_mesh(local, (token_spec, token_spec, token_spec, id_spec, id_spec), token_spec)(
        q, k, v, q_segment_ids, kv_segment_ids
    )


_LOGGED: set[tuple[object, ...]] = set()
_RECORDS: contextvars.ContextVar[tuple[list[Choice], ...]] = contextvars.ContextVar("attention choices", default=())


@contextlib.contextmanager
def record_choices() -> Iterator[list[Choice]]:
    """Collects the distinct choices made while tracing inside the context, in order.

    A function that `jax.jit` has traced before is not traced again, and adds nothing.
    """
    choices: list[Choice] = []
    token = _RECORDS.set((*_RECORDS.get(), choices))
    try:
        yield choices
    finally:
        _RECORDS.reset(token)


def _log(choice: Choice) -> None:
    kind = (choice.backend, choice.reason, choice.kind, choice.window, choice.platform)
    if kind in _LOGGED:  # inference uses many lengths; one line stands for all of them
        return
    _LOGGED.add(kind)
    logging.getLogger(__name__).info(
        "attention: %s (%s) for %d queries, %d keys, %s%s on %s",
        choice.backend,
        choice.reason,
        choice.q_length,
        choice.kv_length,
        choice.kind,
        "" if choice.window is None else f" (window {choice.window})",
        choice.platform,
    )
