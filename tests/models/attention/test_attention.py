"""Every backend against a masked softmax in NumPy (values) and against its derivative in plain jnp (gradients)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.models.attention import attention
from slap_jax.models.attention.chunked import chunked_attention

LENGTH, HEADS, DIM = 100, 2, 8  # 100 is no multiple of any block or tile
LENGTHS = [[3, 40, 1, 30, 20], [100]]  # padding in the first row, none in the second
KINDS = {
    "local": {"window": 5},
    "wide": {"window": 45},
    "global": {},
    "causal": {"causal": True},
    "local_causal": {"window": 5, "causal": True},
    "self_only": {"window": 0},
}


def mask(q_segments, kv_segments, window=None, causal=False):
    allow = q_segments[:, :, None] == kv_segments[:, None, :]
    offset = np.arange(kv_segments.shape[1])[None] - np.arange(q_segments.shape[1])[:, None]
    if window is not None:
        allow &= np.abs(offset) <= window
    if causal:
        allow &= offset <= 0
    return allow


def oracle(qkv, allow, xp: Any = np):
    q, k, v = qkv
    scores = xp.einsum("rqhd,rkhd->rhqk", q, k) / np.sqrt(q.shape[-1])
    weights = xp.where(allow[:, None], xp.exp(xp.where(allow[:, None], scores, 0.0)), 0.0)
    total = weights.sum(-1, keepdims=True)
    weights = weights / xp.where(total > 0, total, 1.0)
    return xp.einsum("rhqk,rkhd->rqhd", weights, v)


def inputs(q_length=LENGTH, kv_length=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(2, q_length, HEADS, DIM), (2, kv_length, HEADS, DIM), (2, kv_length, HEADS, DIM)]
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def check(function, qkv, allow):
    """Compares values and gradients with the oracle's."""
    weights = np.random.default_rng(9).standard_normal(qkv[0].shape).astype(np.float32)
    exact = oracle([np.asarray(x, np.float64) for x in qkv], allow)
    expected = jax.grad(lambda qkv: jnp.sum(oracle(qkv, allow, jnp) * weights))(qkv)

    @jax.jit
    def both(qkv):
        out, pull = jax.vjp(lambda qkv: function(*qkv), qkv)
        return out, pull(weights)[0]

    out, gradients = both(qkv)
    np.testing.assert_allclose(out, exact, atol=2e-6)
    for got, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "backend, kind",
    [(b, kind) for b in ("dense", "chunked", "blocked") for kind in KINDS if b != "blocked" or "window" in KINDS[kind]],
)
def test_packed_rows_equal_the_oracle(pack, backend, kind):
    segments, _ = pack(LENGTHS, LENGTH)

    def function(q, k, v):
        return attention(q, k, v, q_segments=segments, backend=backend, **KINDS[kind])

    check(function, inputs(), mask(segments, segments, **KINDS[kind]))


@pytest.mark.parametrize("backend", ["dense", "chunked"])
def test_cross_attention_with_unseen_segments_equals_the_oracle(pack, backend):
    q_segments, _ = pack([[10, 20, 5], [30, 30]], 70)
    kv_segments, _ = pack([[40, 20], [100]], LENGTH)  # slot 3 of row 0 and slot 2 of row 1 have no keys
    allow = mask(q_segments, kv_segments)
    assert not allow.any(-1).all()

    def function(q, k, v):
        return attention(q, k, v, q_segments=q_segments, kv_segments=kv_segments, backend=backend)

    check(function, inputs(70), allow)


@pytest.mark.parametrize("tile", [7, 16, 100, 512])
def test_chunked_does_not_depend_on_the_tile(pack, tile):
    segments, _ = pack(LENGTHS, LENGTH)

    def function(q, k, v):
        return chunked_attention(q, k, v, segments, segments, None, False, tile=tile)

    check(function, inputs(), mask(segments, segments))


@pytest.mark.parametrize("backend", ["dense", "chunked"])
def test_segments_in_any_order_are_still_respected(backend):
    segments: Any = np.random.default_rng(0).integers(0, 4, (2, LENGTH))

    def function(q, k, v):
        return attention(q, k, v, q_segments=segments, backend=backend)

    check(function, inputs(), mask(segments, segments))


@pytest.mark.parametrize("backend", ["dense", "chunked", "blocked"])
def test_large_scores_stay_finite(pack, backend):
    segments, _ = pack(LENGTHS, LENGTH)
    q, k, v = inputs()

    def loss(q, k, v):
        return attention(q, k, v, q_segments=segments, window=5, backend=backend).sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q * 1e4, k * 1e4, v)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("backend", ["dense", "chunked", "blocked"])
def test_bfloat16_is_close_and_kept(pack, backend):
    segments, _ = pack(LENGTHS, LENGTH)
    q, k, v = inputs()
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    out = jax.jit(lambda q, k, v: attention(q, k, v, q_segments=segments, window=5, backend=backend))(*half)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(out), oracle((q, k, v), mask(segments, segments, 5)), atol=0.05)


@pytest.mark.parametrize("backend, kind", [("blocked", "local"), ("chunked", "global")])
def test_no_score_matrix_of_the_whole_row_exists(pack, backend, kind):
    length = 640
    segments, _ = pack([[300, 340], [640]], length)

    def loss(q, k, v):
        return attention(q, k, v, q_segments=segments, backend=backend, **KINDS[kind]).sum()

    text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*inputs(length, length)).as_text()
    assert f"{length}x{length}x" not in text
    assert "while" in text or backend == "blocked"
