"""The kernels of TPU and GPU, interpreted, against the oracles of the other backends: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from slap_jax.models.attention.flash import flash_attention
from slap_jax.models.attention.splash import splash_attention
from tests.models.attention.oracle import KINDS, check, inputs, oracle, segment_mask

pytestmark = pytest.mark.compile

LENGTH = 300  # three tiles of splash, the last of them not full
LENGTHS = [[3, 140, 1, 60, 40], [300], [128, 50]]  # clips across tile boundaries, padding in rows 0 and 2
KERNELS = {
    "splash": functools.partial(splash_attention, tiles=(128, 128), interpret=True),
    "flash": functools.partial(flash_attention, tiles=(64, 32), interpret=True),
}
kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))


def rows_of(kernel, q_segment_ids, kv_segment_ids, kind=None):
    kind = kind or {}
    return lambda q, k, v: kernel(q, k, v, q_segment_ids, kv_segment_ids, kind.get("window"), kind.get("causal", False))


# "local_causal" combines "local" and "causal".
@pytest.mark.parametrize(
    "name, kind",
    [
        ("splash", "global"),
        ("splash", "wide"),
        ("splash", "causal"),
        ("splash", "local_causal"),
        ("flash", "global"),
        ("flash", "causal"),
        ("flash", "local_causal"),
        ("flash", "self_only"),
    ],
)
def test_packed_rows_equal_the_oracle(pack, name, kind):
    segments, _ = pack(LENGTHS, LENGTH)
    function = rows_of(KERNELS[name], segments, segments, KINDS[kind])
    check(function, inputs(3, LENGTH, LENGTH), segment_mask(segments, segments, **KINDS[kind]))


@kernels
def test_queries_without_keys_get_zeros_and_zero_gradients(pack, kernel):
    q_segment_ids, _ = pack([[10, 20, 5], [30, 30], [60]], 70)
    kv_segment_ids, _ = pack(
        [[140, 20], [300], []], LENGTH
    )  # slot 3, slot 2, and every token of the last row see no key
    mask = segment_mask(q_segment_ids, kv_segment_ids)
    out, gradients = check(rows_of(kernel, q_segment_ids, kv_segment_ids), inputs(3, 70, LENGTH), mask)
    unseen = ~mask.any(-1)
    assert unseen.any()
    assert not np.any(np.asarray(out)[unseen])
    assert not np.any(np.asarray(gradients[0])[unseen])


@kernels
def test_segments_in_any_order_are_still_respected(kernel):
    segments = np.random.default_rng(0).integers(0, 4, (2, LENGTH)).astype(np.int32)
    check(rows_of(kernel, segments, segments), inputs(2, LENGTH, LENGTH), segment_mask(segments, segments))


@pytest.mark.parametrize(
    "kernel, length, dim, kind",
    [
        (splash_attention, 20, 12, "global"),
        (splash_attention, 600, 64, "local"),
        (flash_attention, 20, 12, "local"),
        (flash_attention, 600, 64, "global"),
    ],
)
def test_default_tiles_fit_every_length_and_head(pack, kernel, length, dim, kind):
    segments, _ = pack([[length // 2, length // 3], [length]], length)
    function = rows_of(functools.partial(kernel, interpret=True), segments, segments, KINDS[kind])
    check(function, inputs(2, length, length, dim=dim), segment_mask(segments, segments, **KINDS[kind]))


@kernels
def test_large_scores_stay_finite(pack, kernel):
    segments, _ = pack(LENGTHS, LENGTH)
    q, k, v = inputs(3, LENGTH, LENGTH)
    function = rows_of(kernel, segments, segments, KINDS["local"])
    gradients = jax.jit(jax.grad(lambda *qkv: function(*qkv).sum(), argnums=(0, 1, 2)))(q * 1e4, k * 1e4, v)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@kernels
def test_bfloat16_is_close_and_kept(pack, kernel):
    segments, _ = pack(LENGTHS, LENGTH)
    exact = inputs(3, LENGTH, LENGTH)
    half = [x.astype(jnp.bfloat16) for x in exact]
    mask = segment_mask(segments, segments)

    @jax.jit
    def both(qkv):
        out, vjp = jax.vjp(rows_of(kernel, segments, segments), *qkv)
        return out, vjp(jnp.ones_like(out))

    out, gradients = both(half)
    assert {x.dtype for x in (out, *gradients)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(np.float32(out), oracle(exact, mask), atol=0.05)
    expected = jax.grad(lambda qkv: jnp.sum(oracle(qkv, mask, jnp)))(exact)
    for result, target in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(np.float32(result), target, atol=0.03 * float(jnp.abs(target).max()))


@kernels
def test_a_remat_policy_can_keep_the_results(pack, kernel, capsys):
    segments, _ = pack([[100]], LENGTH)
    policy = jax.checkpoint_policies.save_only_these_names("attention")
    function = jax.checkpoint(rows_of(kernel, segments, segments), policy=policy)
    print_saved_residuals(function, *inputs(1, LENGTH, LENGTH))
    saved = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    # The result and the logsumexp, with which the backward pass need not run the forward kernel again, in the kernel's
    # layout and padded to whole tiles.
    results = {"splash": {"f32[2,384,8]", "f32[2,384]"}, "flash": {"f32[1,320,2,16]", "f32[1,2,320]"}}
    assert results[kernel.func.__name__.removesuffix("_attention")] <= set(saved), saved
