"""Which backend computes an attention call, and why; an impossible wish raises."""

import logging

BACKENDS = ("auto", "dense", "blocked", "chunked")

# Up to so many scores for each row and head the dense backend is the faster one. Measured on a CPU (R=8, H=6, d=32,
# forward and backward): 128 x 128, 2.7 ms against 4.7 chunked; 256 x 256, 15.5 against 14.8; 512 x 512, 100 against 50.
# On accelerators the bound is the memory of the score matrix.
DENSE_SCORES = {"cpu": 192 * 192}
DENSE_SCORES_ELSEWHERE = 1_536 * 1_536


class AttentionError(ValueError):
    """A backend that cannot compute what was asked of it."""


_LOGGED: set[tuple[object, ...]] = set()


def select_backend(
    backend: str, q_length: int, kv_length: int, window: int | None, causal: bool, cross: bool, platform: str
) -> str:
    """Chooses a backend and logs the choice with its reason, once for each kind of call, lengths aside.

    Args:
        backend: one of `BACKENDS`; other than "auto" it is obeyed or refused.
        q_length: queries in a row.
        kv_length: keys in a row.
        window: keys seen on each side, None for all.
        causal: whether later keys are hidden.
        cross: whether keys and queries belong to different sequences.
        platform: what the program is compiled for, "cpu", "gpu" or "tpu".

    Returns:
        "dense", "blocked" or "chunked".

    Raises:
        AttentionError: the backend is unknown or does not cover this kind of call.
    """
    if backend not in BACKENDS:
        raise AttentionError(f"attention backend {backend!r} is unknown; write one of {', '.join(BACKENDS)}")
    if window is not None and window < 0:
        raise AttentionError(f"attention window is {window}; write 0 or more, or None for global attention")
    if cross and (window is not None or causal):
        raise AttentionError("a window or a causal mask needs queries and keys of one sequence, not cross-attention")
    if backend == "blocked" and (window is None or cross):
        raise AttentionError("backend 'blocked' computes local self-attention only; use 'dense' or 'chunked' here")
    if backend != "auto":
        chosen, reason = backend, "forced by the configuration"
    elif window is not None and q_length > 4 * max(window, 16):
        chosen, reason = "blocked", "local attention over many windows"
    elif q_length * kv_length <= DENSE_SCORES.get(platform, DENSE_SCORES_ELSEWHERE):
        chosen, reason = "dense", "the score matrix is small"
    else:
        chosen, reason = "chunked", "the score matrix is large"
    kind = (chosen, reason, window, causal, cross, platform)
    if kind not in _LOGGED:  # inference calls with many lengths: one line tells of all of them
        _LOGGED.add(kind)
        logging.getLogger(__name__).info(
            "attention: %s (%s) for %d queries, %d keys, window %s%s on %s",
            *kind[:2],
            q_length,
            kv_length,
            window,
            ", causal" if causal else "",
            platform,
        )
    return chosen
