"""Segment attention: one entry point, and several backends that compute the same function.

    s_ij    = q_i . k_j / sqrt(d)
    mask_ij = q_segment_ids[i] == kv_segment_ids[j]
              and (window is None or |i - j| <= window) and (not causal or j <= i)
    out_i   = sum_j mask_ij e^s_ij v_j / sum_j mask_ij e^s_ij

Clips are contiguous in a row, so distances in the row are distances in the clip. Padding is segment 0 and attends to
padding. A query whose mask is empty gets zeros, and zero gradients, from every backend.

`dense` is the reference, and the choice for small score matrices. `blocked` (local layers) and `chunked` are plain XLA
with memory linear in the row. `splash` and `flash` are the kernels for TPU and GPU. `dispatch.py` chooses a backend and
runs it on each device's own rows and heads.
"""

from slap_jax.models.attention.dispatch import attention

__all__ = ["attention"]
