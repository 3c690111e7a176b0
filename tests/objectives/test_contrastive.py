"""Contrastive losses against open_clip's and a dense one, on one device and many, and what they must leave alone."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.objectives.contrastive import (
    ClipKeys,
    caption_keys,
    clip_keys,
    negatives_mask,
    sigmoid_loss,
    softmax_loss,
    spread,
)
from slap_jax.parallel.sharding import AXES, batch_sharding, create_mesh
from tests.objectives.dense_contrastive import dense_sigmoid_loss, dense_softmax_loss

GOLDEN = Path(__file__).parent.parent / "golden" / "open_clip_losses.npz"
FORMS = ["softmax", "sigmoid"]
MESHES = [(1, 1, 1), (2, 1, 1), (1, 4, 1), (8, 1, 1), (4, 2, 1), (2, 2, 2), (1, 1, 8)]


def distinct(count: int, padding: int = 0) -> ClipKeys:
    """Keys of clips that are all negatives of each other, and of empty slots after them."""
    numbers = jnp.arange(count + padding)
    return ClipKeys(numbers < count, numbers, numbers)


@functools.partial(jax.jit, static_argnums=(0, 4))
def loss_of(form: str, audio, text, keys, block=1_024):
    if form == "softmax":
        return softmax_loss(audio, text, jnp.float32(1 / 0.07), keys, block=block)
    return sigmoid_loss(audio, text, jnp.float32(10.0), jnp.float32(-10.0), keys, block=block)


@pytest.mark.parametrize("block", [3, 1_024])
@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients_equal_open_clip(form, block):
    golden = np.load(GOLDEN)
    audio, text = (jnp.asarray(golden[name], jnp.float32) for name in ("audio", "text"))
    value, gradients = jax.value_and_grad(
        lambda a, t: loss_of(form, a, t, distinct(len(audio)), block), argnums=(0, 1)
    )(audio, text)
    np.testing.assert_allclose(value, golden[f"{form}_loss"], rtol=1e-5)
    np.testing.assert_allclose(gradients[0], golden[f"{form}_audio_gradient"], atol=2e-5)
    np.testing.assert_allclose(gradients[1], golden[f"{form}_text_gradient"], atol=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_empty_slots_change_nothing_and_get_no_gradient(form):
    golden = np.load(GOLDEN)
    audio, text = (jnp.asarray(golden[name], jnp.float32) for name in ("audio", "text"))
    expected = loss_of(form, audio, text, distinct(len(audio)))
    junk = jnp.full((3, audio.shape[1]), 7.0)
    padded = (jnp.concatenate([audio, junk]), jnp.concatenate([text, junk]))
    keys = distinct(len(audio), padding=3)
    value, gradient = jax.value_and_grad(lambda a: loss_of(form, a, padded[1], keys))(padded[0])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_array_equal(gradient[len(audio) :], 0.0)


def problem(clips: int, seed: int = 0):
    """Unit vectors, keys with empty slots and with recordings and captions that come twice, and weights."""
    generator = np.random.default_rng(seed)
    audio, text = generator.standard_normal((2, clips, 8)).astype(np.float32)
    audio, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (audio, text))
    recording, caption = generator.integers(0, clips, (2, clips)).astype(np.int32)
    keys = ClipKeys(jnp.asarray(generator.random(clips) < 0.8), recording, caption)
    return audio, text, keys, (generator.random(clips) * keys.valid).astype(np.float32)


def losses(form: str, block: int):
    """Our loss and the dense one, both of (audio, text, scale, bias, keys, weights)."""
    if form == "softmax":
        return (
            lambda audio, text, scale, bias, keys, weights: softmax_loss(audio, text, scale, keys, weights, block),
            lambda audio, text, scale, bias, keys, weights: dense_softmax_loss(audio, text, scale, keys, weights),
        )
    return lambda *arguments: sigmoid_loss(*arguments, block=block), dense_sigmoid_loss


NUMBERS = (jnp.float32(14.0), jnp.float32(-3.0))  # scale and bias


@functools.cache
def dense_value_and_gradients(form: str, clips: int, weighted: bool):
    audio, text, keys, weights = problem(clips)
    dense = jax.jit(jax.value_and_grad(losses(form, block=1)[1], argnums=(0, 1, 2, 3)))
    return jax.device_get(dense(audio, text, *NUMBERS, keys, weights if weighted else None))


def assert_equals_the_dense_loss(form: str, clips: int, weighted: bool, sizes: tuple[int, int, int], block: int):
    *inputs, weights = problem(clips)
    mesh = create_mesh(ConfigDict(dict(zip(AXES, sizes, strict=True))), jax.devices()[: math.prod(sizes)])
    rows = batch_sharding(mesh)
    audio, text, keys, weights = jax.device_put((*inputs, weights if weighted else None), rows)
    ours = jax.jit(jax.value_and_grad(losses(form, block)[0], argnums=(0, 1, 2, 3)))
    with jax.set_mesh(mesh):
        value, gradients = ours(audio, text, *NUMBERS, keys, weights)
    expected, expected_gradients = dense_value_and_gradients(form, clips, weighted)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, wanted, atol=3e-6 * np.max(np.abs(wanted)))
    assert form == "softmax" or float(expected_gradients[3]) != 0


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", MESHES)
def test_value_and_gradients_equal_the_dense_loss_on_every_mesh(sizes, form, weighted):
    assert_equals_the_dense_loss(form, 48, weighted, sizes, block=4)


@pytest.mark.parametrize("form", FORMS)
def test_tensor_ways_that_do_not_divide_the_clips_do_the_same_work(form):
    assert_equals_the_dense_loss(form, 12, False, (2, 2, 2), block=2)  # 3 clips for each of 4 row ways


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("counted", [0, 1])
def test_a_batch_without_negatives_has_finite_gradients(form, counted):
    audio, text, keys, _ = problem(6)
    keys = ClipKeys(np.arange(6) < counted, keys.recording, keys.caption)
    value, gradients = jax.value_and_grad(lambda a, t: loss_of(form, a, t, keys, block=4), argnums=(0, 1))(audio, text)
    if form == "softmax" or not counted:
        assert float(value) == 0.0
        assert all(np.all(np.asarray(gradient) == 0.0) for gradient in gradients)
    else:
        np.testing.assert_allclose(value, -jax.nn.log_sigmoid(10.0 * (audio[0] @ text[0]) - 10.0), rtol=1e-6)
        assert np.all(np.isfinite(gradients[0])) and np.all(gradients[0][1:] == 0.0)


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
        audio_segment_ids=empty,
        audio_positions=empty,
        text_tokens=tokens,
        text_segment_ids=segments,
        text_positions=positions,
        clip_valid=np.array([[True] * len(captions) + [False]]),
        clip_key=np.array([[*keys, 0]], np.int32),
        clip_source=np.zeros((1, len(captions) + 1), np.int32),
    )


def test_same_recording_and_same_caption_are_no_negatives():
    batch = batch_of([[1, 5, 6, 2], [1, 6, 5, 2], [1, 5, 6, 2], [1, 9, 2]], keys=[10, 11, 12, 11])
    keys = clip_keys(batch)
    expected = np.ones((5, 5), bool)
    expected[4], expected[:, 4] = False, False
    np.fill_diagonal(expected, False)
    expected[0, 2] = expected[2, 0] = False  # equal captions
    expected[1, 3] = expected[3, 1] = False  # one recording
    np.testing.assert_array_equal(negatives_mask(keys, keys), expected)
    np.testing.assert_array_equal(keys.valid, [True] * 4 + [False])


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
