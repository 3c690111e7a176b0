"""The choice of a backend: by size, obeyed when forced, refused when impossible, logged once."""

import logging

import jax.numpy as jnp
import pytest

from slap_jax.models.attention import attention, select
from slap_jax.models.attention.select import AttentionError, select_backend


def test_auto_takes_blocks_for_local_layers_of_long_rows_only():
    assert select_backend("auto", 2_048, 2_048, 12, False, False, "cpu") == "blocked"
    assert select_backend("auto", 32, 32, 12, False, False, "cpu") == "dense"


def test_auto_leaves_the_dense_score_matrix_for_long_rows():
    assert select_backend("auto", 16, 16, None, False, False, "cpu") == "dense"
    assert select_backend("auto", 512, 512, None, False, False, "cpu") == "chunked"
    assert select_backend("auto", 512, 512, None, False, False, "gpu") == "dense"
    assert select_backend("auto", 4_096, 4_096, None, False, False, "gpu") == "chunked"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("flash", 64, 64, None, False, False), "unknown"),
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


def test_choice_is_logged_once_with_its_reason(caplog, monkeypatch):
    monkeypatch.setattr(select, "_LOGGED", set())
    with caplog.at_level(logging.INFO):
        for length in (48, 48, 56):
            q = jnp.zeros((1, length, 1, 4))
            attention(q, q, q, q_segments=jnp.ones((1, length), jnp.int32), backend="chunked")
    messages = [record.getMessage() for record in caplog.records if "attention:" in record.getMessage()]
    assert len(messages) == 1
    assert "chunked" in messages[0] and "forced" in messages[0] and "48" in messages[0]
