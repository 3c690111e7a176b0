"""The choice of a backend: by size and platform, forced by config, an error if impossible, logged once."""

import logging

import jax
import jax.numpy as jnp
import pytest

from slap_jax.models.attention import attention, dispatch
from slap_jax.models.attention.dispatch import AttentionError, record_choices, select_backend
from slap_jax.parallel.sharding import compiling_for

pytestmark = pytest.mark.compile


def test_auto_chooses_by_size_kind_and_platform():
    for q_length, kv_length, window, causal, cross, platform, expected in [
        (16, 16, None, False, False, "cpu", "dense"),
        (512, 512, None, False, False, "cpu", "chunked"),
        (32, 32, 12, False, False, "cpu", "dense"),
        (2_048, 2_048, 12, False, False, "cpu", "blocked"),
        (128, 4_096, None, False, False, "gpu", "dense"),  # too few queries for the kernel
        (128, 40_960, None, False, False, "gpu", "chunked"),
        (1, 2_048, None, False, True, "tpu", "dense"),
        (256, 256, None, False, False, "tpu", "splash"),
        (1_024, 2_048, None, True, False, "tpu", "splash"),
        (2_048, 2_048, 12, False, False, "tpu", "splash"),
        (256, 90_000, None, False, True, "tpu", "splash"),
        (2_048, 2_048, None, False, False, "gpu", "flash"),
        (256, 256, None, True, False, "gpu", "flash"),
        (2_048, 2_048, 12, False, False, "gpu", "flash"),
        (1_024, 2_048, None, False, True, "gpu", "flash"),
    ]:
        arguments = (q_length, kv_length, window, causal, cross, platform)
        assert select_backend("auto", *arguments) == expected, arguments


@pytest.mark.parametrize(
    "backend, window, causal, cross, platform, message",
    [
        ("paged", None, False, False, "cpu", "unknown; write one of auto, dense"),
        ("blocked", None, False, False, "cpu", "local self-attention"),
        ("blocked", 4, False, True, "cpu", "not cross-attention"),
        ("dense", None, True, True, "cpu", "not cross-attention"),
        ("dense", -1, False, False, "cpu", "window is -1; write 0 or more"),
        ("splash", None, False, False, "cpu", "'splash', a kernel for TPUs, but the program is compiled for cpu"),
        ("flash", None, False, False, "tpu", "compiled for tpu; write 'auto', or one of dense, blocked, chunked"),
    ],
)
def test_impossible_calls_are_refused(backend, window, causal, cross, platform, message):
    with pytest.raises(AttentionError, match=message):
        select_backend(backend, 64, 64, window, causal, cross, platform)


def test_a_kernel_of_another_platform_is_refused_by_attention():
    q = jnp.zeros((1, 8, 1, 4))
    with compiling_for("gpu"), pytest.raises(AttentionError, match=r"config\.model\.attention is 'splash'"):
        attention(q, q, q, q_segment_ids=jnp.ones((1, 8), jnp.int32), backend="splash")


def test_choices_of_a_trace_are_recorded_once_each():
    def both(q):
        segments = jnp.ones((1, 512), jnp.int32)
        for window in (12, None, 12):
            q = attention(q, q, q, q_segment_ids=segments, window=window)
        return q

    with compiling_for("tpu"), record_choices() as choices:
        jax.eval_shape(both, jax.ShapeDtypeStruct((1, 512, 1, 64), jnp.float32))
    assert [(c.backend, c.kind, c.window, c.platform) for c in choices] == [
        ("splash", "local", 12, "tpu"),
        ("splash", "global", None, "tpu"),
    ]
    attention(jnp.zeros((1, 8, 1, 4)), *[jnp.zeros((1, 8, 1, 4))] * 2, q_segment_ids=jnp.ones((1, 8), jnp.int32))
    assert len(choices) == 2


def test_a_choice_is_logged_once_with_its_reason(caplog, monkeypatch):
    monkeypatch.setattr(dispatch, "_LOGGED", set())
    with caplog.at_level(logging.INFO):
        for length in (48, 48, 56):
            q = jnp.zeros((1, length, 1, 4))
            attention(q, q, q, q_segment_ids=jnp.ones((1, length), jnp.int32), backend="chunked")
    messages = [record.getMessage() for record in caplog.records if "attention:" in record.getMessage()]
    assert len(messages) == 1
    assert "chunked" in messages[0] and "forced" in messages[0] and "48" in messages[0]
