"""Masked softmax in NumPy for values, the same in jnp for gradients, and the comparison with them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HEADS, DIM = 2, 8
KINDS = {
    "local": {"window": 5},
    "wide": {"window": 45},
    "global": {},
    "causal": {"causal": True},
    "local_causal": {"window": 5, "causal": True},
    "self_only": {"window": 0},
}


def segment_mask(q_segment_ids, kv_segment_ids, window=None, causal=False):
    mask = q_segment_ids[:, :, None] == kv_segment_ids[:, None, :]
    offset = np.arange(kv_segment_ids.shape[1])[None] - np.arange(q_segment_ids.shape[1])[:, None]
    if window is not None:
        mask &= np.abs(offset) <= window
    if causal:
        mask &= offset <= 0
    return mask


def oracle(qkv, mask, xp: Any = np):
    q, k, v = qkv
    scores = xp.einsum("rqhd,rkhd->rhqk", q, k) / np.sqrt(q.shape[-1])
    weights = xp.where(mask[:, None], xp.exp(xp.where(mask[:, None], scores, 0.0)), 0.0)
    total = weights.sum(-1, keepdims=True)
    weights = weights / xp.where(total > 0, total, 1.0)
    return xp.einsum("rhqk,rkhd->rqhd", weights, v)


def inputs(rows, q_length, kv_length, dim=DIM, heads=HEADS, seed=0):
    rng = np.random.default_rng(seed)
    lengths = (q_length, kv_length, kv_length)
    return [jnp.asarray(rng.standard_normal((rows, length, heads, dim)), jnp.float32) for length in lengths]


def check(function, qkv, mask):
    """Compares values and gradients with the oracle's, and returns them."""
    weights = np.random.default_rng(9).standard_normal(qkv[0].shape).astype(np.float32)
    exact = oracle([np.asarray(x, np.float64) for x in qkv], mask)
    expected = jax.grad(lambda qkv: jnp.sum(oracle(qkv, mask, jnp) * weights))(qkv)

    @jax.jit
    def both(qkv):
        out, vjp = jax.vjp(lambda qkv: function(*qkv), qkv)
        return out, vjp(weights)[0]

    out, gradients = both(qkv)
    np.testing.assert_allclose(out, exact, atol=2e-6)
    for result, target in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(result, target, atol=1e-5)
    return out, gradients
