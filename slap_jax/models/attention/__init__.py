"""Segment attention: the one entry point, behind which the backends compute the same function.

    mask(i, j) = q_segment_ids[i] == kv_segment_ids[j]
                 and (window is None or |i - j| <= window) and (not causal or j <= i)

Clips are contiguous in a row, so a distance in the row is the distance inside the clip. Padding is segment 0 and
attends to padding. A query with no key allowed gets zeros, and zero gradients, from every backend.

`dense` is the reference and the choice for few scores; `blocked` (local layers) and `chunked` are plain XLA with memory
linear in the row; `splash` and `flash` are the kernels of TPU and GPU. `select.py` chooses, `dispatch.py` gives every
device its own rows and heads.
"""

from slap_jax.models.attention.dispatch import attention

__all__ = ["attention"]
