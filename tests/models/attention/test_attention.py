"""Every backend against a masked softmax in NumPy (values) and against its derivative in plain jnp (gradients)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.models.attention import attention
from slap_jax.models.attention.chunked import chunked_attention
from tests.models.attention.oracle import KINDS, check, inputs, oracle, segment_mask

pytestmark = pytest.mark.compile

LENGTH = 100  # not a multiple of any block or tile
LENGTHS = [[3, 40, 1, 30, 20], [100]]  # padding in the first row, none in the second


# "local_causal" combines "local" and "causal"; the other cases are the ends of the range of windows.
CASES = {
    "dense": ("global", "local_causal", "self_only"),
    "chunked": ("global", "wide", "causal", "local_causal"),
    "blocked": ("local", "wide", "local_causal", "self_only"),
}


@pytest.mark.parametrize("backend, kind", [(backend, kind) for backend, kinds in CASES.items() for kind in kinds])
def test_packed_rows_equal_the_oracle(pack, backend, kind):
    segments, _ = pack(LENGTHS, LENGTH)

    def function(q, k, v):
        return attention(q, k, v, q_segment_ids=segments, backend=backend, **KINDS[kind])

    check(function, inputs(2, LENGTH, LENGTH), segment_mask(segments, segments, **KINDS[kind]))


@pytest.mark.parametrize("backend", ["dense", "chunked"])
def test_cross_attention_with_unseen_segments_equals_the_oracle(pack, backend):
    q_segment_ids, _ = pack([[10, 20, 5], [30, 30]], 70)
    kv_segment_ids, _ = pack([[40, 20], [100]], LENGTH)  # slot 3 of row 0 and slot 2 of row 1 have no keys
    mask = segment_mask(q_segment_ids, kv_segment_ids)
    assert not mask.any(-1).all()

    def function(q, k, v):
        return attention(q, k, v, q_segment_ids=q_segment_ids, kv_segment_ids=kv_segment_ids, backend=backend)

    check(function, inputs(2, 70, LENGTH), mask)


@pytest.mark.parametrize("tile", [7, 512])  # many tiles, the last of them not full, and one that the row does not fill
def test_chunked_does_not_depend_on_the_tile(pack, tile):
    segments, _ = pack(LENGTHS, LENGTH)

    def function(q, k, v):
        return chunked_attention(q, k, v, segments, segments, None, False, tile=tile)

    check(function, inputs(2, LENGTH, LENGTH), segment_mask(segments, segments))


@pytest.mark.parametrize("backend", ["dense", "chunked"])
def test_segments_in_any_order_are_still_respected(backend):
    segments: Any = np.random.default_rng(0).integers(0, 4, (2, LENGTH)).astype(np.int32)

    def function(q, k, v):
        return attention(q, k, v, q_segment_ids=segments, backend=backend)

    check(function, inputs(2, LENGTH, LENGTH), segment_mask(segments, segments))


@pytest.mark.parametrize("backend", ["dense", "chunked", "blocked"])
def test_large_scores_stay_finite(pack, backend):
    segments, _ = pack(LENGTHS, LENGTH)
    q, k, v = inputs(2, LENGTH, LENGTH)

    def loss(q, k, v):
        return attention(q, k, v, q_segment_ids=segments, window=5, backend=backend).sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q * 1e4, k * 1e4, v)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("backend", ["dense", "chunked", "blocked"])
def test_bfloat16_is_close_and_kept(pack, backend):
    segments, _ = pack(LENGTHS, LENGTH)
    q, k, v = inputs(2, LENGTH, LENGTH)
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    out = jax.jit(lambda q, k, v: attention(q, k, v, q_segment_ids=segments, window=5, backend=backend))(*half)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(out), oracle((q, k, v), segment_mask(segments, segments, 5)), atol=0.05)


@pytest.mark.parametrize("backend, kind", [("blocked", "local"), ("chunked", "global")])
def test_no_score_matrix_of_the_whole_row_exists(pack, backend, kind):
    length = 640
    segments, _ = pack([[300, 340], [640]], length)

    def loss(q, k, v):
        return attention(q, k, v, q_segment_ids=segments, backend=backend, **KINDS[kind]).sum()

    text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*inputs(2, length, length)).as_text()
    assert f"{length}x{length}x" not in text
    assert "while" in text or backend == "blocked"
