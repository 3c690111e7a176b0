"""Contrastive losses against open_clip's, and what masking of pairs must and must not change."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.batch import PackedBatch
from slap_jax.objectives.contrastive import caption_keys, negative_mask, sigmoid_loss, softmax_loss, spread

GOLDEN = Path(__file__).parent.parent / "golden" / "open_clip_losses.npz"


def all_pairs(count: int) -> tuple[jax.Array, jax.Array]:
    return ~jnp.eye(count, dtype=bool), jnp.ones(count, bool)


def loss_of(form: str, audio, text, negatives, valid):
    if form == "softmax":
        return softmax_loss(audio, text, jnp.float32(1 / 0.07), negatives, valid)
    return sigmoid_loss(audio, text, jnp.float32(10.0), jnp.float32(-10.0), negatives, valid)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_values_and_gradients_equal_open_clip(form):
    golden = np.load(GOLDEN)
    audio, text = (jnp.asarray(golden[name], jnp.float32) for name in ("audio", "text"))
    negatives, valid = all_pairs(len(audio))
    value, gradients = jax.value_and_grad(lambda a, t: loss_of(form, a, t, negatives, valid), argnums=(0, 1))(
        audio, text
    )
    np.testing.assert_allclose(value, golden[f"{form}_loss"], rtol=1e-5)
    np.testing.assert_allclose(gradients[0], golden[f"{form}_audio_gradient"], atol=2e-5)
    np.testing.assert_allclose(gradients[1], golden[f"{form}_text_gradient"], atol=2e-5)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_empty_slots_change_nothing_and_get_no_gradient(form):
    golden = np.load(GOLDEN)
    audio, text = (jnp.asarray(golden[name], jnp.float32) for name in ("audio", "text"))
    expected = loss_of(form, audio, text, *all_pairs(len(audio)))
    junk = jnp.full((3, audio.shape[1]), 7.0)
    valid = jnp.arange(len(audio) + 3) < len(audio)
    negatives = valid[:, None] & valid[None] & ~jnp.eye(len(valid), dtype=bool)
    padded = (jnp.concatenate([audio, junk]), jnp.concatenate([text, junk]))
    value, gradient = jax.value_and_grad(lambda a: loss_of(form, a, padded[1], negatives, valid))(padded[0])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_array_equal(gradient[len(audio) :], 0.0)


def batch_of(captions: list[list[int]], keys: list[int], length: int = 32) -> PackedBatch:
    tokens, segments, positions = (np.zeros((1, length), np.int32) for _ in range(3))
    start = 0
    for slot, caption in enumerate(captions):
        part = slice(start, start + len(caption))
        tokens[0, part], segments[0, part], positions[0, part] = caption, slot + 1, np.arange(len(caption))
        start += len(caption)
    empty = np.zeros((1, 4), np.int32)
    return PackedBatch(
        waveform=empty,
        audio_segments=empty,
        audio_columns=empty,
        text_tokens=tokens,
        text_segments=segments,
        text_positions=positions,
        clip_valid=np.array([[True] * len(captions) + [False]]),
        clip_key=np.array([[*keys, 0]], np.int32),
        clip_source=np.zeros((1, len(captions) + 1), np.int32),
    )


def test_same_recording_and_same_caption_are_no_negatives():
    batch = batch_of([[1, 5, 6, 2], [1, 6, 5, 2], [1, 5, 6, 2], [1, 9, 2]], keys=[10, 11, 12, 11])
    negatives, valid = negative_mask(batch)
    expected = np.ones((5, 5), bool)
    expected[4], expected[:, 4] = False, False
    np.fill_diagonal(expected, False)
    expected[0, 2] = expected[2, 0] = False  # equal captions
    expected[1, 3] = expected[3, 1] = False  # one recording
    np.testing.assert_array_equal(negatives, expected)
    np.testing.assert_array_equal(valid, [True] * 4 + [False])


def test_caption_keys_do_not_depend_on_the_place_in_the_row():
    keys = np.asarray(caption_keys(batch_of([[1, 5, 6, 2], [1, 7, 2]], [0, 0])))
    swapped = np.asarray(caption_keys(batch_of([[1, 7, 2], [1, 5, 6, 2]], [0, 0])))
    np.testing.assert_array_equal(keys[0, :2], swapped[0, 1::-1])
    assert keys[0, 0] != keys[0, 1]


def test_spread_tells_collapse():
    valid = jnp.ones(4, bool)
    collapsed = jnp.tile(jnp.array([[0.6, 0.8]]), (4, 1))
    opposite = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    np.testing.assert_allclose(spread(collapsed, valid), 0.0, atol=1e-6)
    np.testing.assert_allclose(spread(opposite, valid), 1.0, atol=1e-6)
