"""The choice of a backend: by size, obeyed when forced, refused when impossible, logged once."""

import logging

import jax
import jax.numpy as jnp
import pytest

from slap_jax.models.attention import attention
from slap_jax.models.attention import dispatch as select
from slap_jax.models.attention.dispatch import AttentionError, record_choices, select_backend
from slap_jax.parallel.sharding import compiling_for


def test_auto_takes_blocks_for_local_layers_of_long_rows_only():
    assert select_backend("auto", 2_048, 2_048, 12, False, False, "cpu") == "blocked"
    assert select_backend("auto", 32, 32, 12, False, False, "cpu") == "dense"


def test_auto_leaves_the_dense_score_matrix_for_long_rows():
    assert select_backend("auto", 16, 16, None, False, False, "cpu") == "dense"
    assert select_backend("auto", 512, 512, None, False, False, "cpu") == "chunked"
    assert select_backend("auto", 128, 4_096, None, False, False, "gpu") == "dense"
    assert select_backend("auto", 128, 40_960, None, False, False, "gpu") == "chunked"
    assert select_backend("auto", 1, 2_048, None, False, True, "tpu") == "dense"


@pytest.mark.parametrize("q_length, kv_length", [(2_048, 2_048), (1_024, 2_048), (256, 90_000)])
@pytest.mark.parametrize("kind", [(None, False, False), (None, True, False), (None, False, True), (12, False, False)])
def test_auto_takes_the_kernel_of_the_platform_for_long_rows(q_length, kv_length, kind):
    window, causal, cross = kind
    assert select_backend("auto", q_length, kv_length, window, causal, cross, "tpu") == "splash"
    assert select_backend("auto", q_length, kv_length, window, causal, cross, "gpu") == "flash"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("paged", 64, 64, None, False, False), "unknown"),
        (("blocked", 64, 64, None, False, False), "local self-attention"),
        (("blocked", 64, 64, 4, False, True), "not cross-attention"),
        (("dense", 64, 64, None, True, True), "not cross-attention"),
        (("dense", 64, 64, -1, False, False), "window is -1"),
    ],
)
def test_impossible_wishes_raise(arguments, message):
    with pytest.raises(AttentionError, match=message):
        backend, q_length, kv_length, window, causal, cross = arguments
        select_backend(backend, q_length, kv_length, window, causal, cross, "cpu")


@pytest.mark.parametrize(
    "backend, platform", [("splash", "cpu"), ("splash", "gpu"), ("flash", "cpu"), ("flash", "tpu")]
)
def test_a_kernel_forced_on_another_platform_is_refused(backend, platform):
    q = jnp.zeros((1, 8, 1, 4))
    with compiling_for(platform), pytest.raises(AttentionError) as error:
        attention(q, q, q, q_segment_ids=jnp.ones((1, 8), jnp.int32), backend=backend)
    message = str(error.value)
    assert f"config.model.attention is '{backend}'" in message and f"compiled for {platform}" in message
    assert "write 'auto', or one of dense, blocked, chunked" in message


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


def test_choice_is_logged_once_with_its_reason(caplog, monkeypatch):
    monkeypatch.setattr(select, "_LOGGED", set())
    with caplog.at_level(logging.INFO):
        for length in (48, 48, 56):
            q = jnp.zeros((1, length, 1, 4))
            attention(q, q, q, q_segment_ids=jnp.ones((1, length), jnp.int32), backend="chunked")
    messages = [record.getMessage() for record in caplog.records if "attention:" in record.getMessage()]
    assert len(messages) == 1
    assert "chunked" in messages[0] and "forced" in messages[0] and "48" in messages[0]
