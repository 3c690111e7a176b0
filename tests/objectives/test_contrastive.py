"""Contrastive losses against those of open_clip and a dense one, on one and several devices, and their memory."""

import functools
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.contrastive_memory import compiled_gradient, dense, temporary_bytes, tiled
from slap_jax.batch import PackedBatch, batch_shapes
from slap_jax.objectives.contrastive import (
    ClipKeys,
    caption_keys,
    clip_keys,
    negatives_mask,
    reduce_over_pairs,
    ring_axes,
    sigmoid_loss,
    softmax_loss,
    spread,
)
from slap_jax.parallel.sharding import batch_sharding

pytestmark = pytest.mark.compile

GOLDEN = Path(__file__).parent.parent / "golden" / "open_clip_losses.npz"
FORMS = ["softmax", "sigmoid"]
# Each mesh occurs with both forms, with and without weights; so does each form.
CASES = [
    ((1, 1, 1), "softmax", False),
    ((1, 1, 1), "sigmoid", True),
    ((8, 1, 1), "softmax", True),
    ((8, 1, 1), "sigmoid", False),
    ((2, 2, 2), "softmax", False),
    ((2, 2, 2), "sigmoid", True),
    ((1, 1, 8), "softmax", True),
    ((1, 1, 8), "sigmoid", False),
]


def dense_negatives(keys):
    same = (keys.recording[:, None] == keys.recording) | (keys.caption[:, None] == keys.caption)
    return keys.valid[:, None] & keys.valid & ~same


def dense_softmax_loss(audio, text, scale, keys, weights=None):
    logits = scale * jnp.matmul(audio, text.T, precision="highest")
    own = jnp.eye(len(keys.valid), dtype=bool)
    masked = jnp.where(dense_negatives(keys) | own, logits, -jnp.inf)
    losses = jax.nn.logsumexp(masked, axis=1) + jax.nn.logsumexp(masked, axis=0) - 2 * jnp.diagonal(logits)
    weights = jnp.where(keys.valid, 1.0 if weights is None else weights, 0.0)
    total = jnp.sum(weights)
    return jnp.sum(jnp.where(keys.valid, losses, 0.0) * weights) / (2 * jnp.where(total > 0, total, 1.0))


def dense_sigmoid_loss(audio, text, scale, bias, keys, weights=None):
    logits = scale * jnp.matmul(audio, text.T, precision="highest") + bias
    weights = jnp.where(keys.valid, 1.0 if weights is None else weights, 0.0)
    positive = jnp.where(keys.valid, jax.nn.log_sigmoid(jnp.diagonal(logits)), 0.0) * weights
    pair_weights = (weights[:, None] + weights) / 2
    negative = jnp.where(dense_negatives(keys), jax.nn.log_sigmoid(-logits), 0.0) * pair_weights
    total = jnp.sum(weights)
    return -(jnp.sum(positive) + jnp.sum(negative)) / jnp.where(total > 0, total, 1.0)


def distinct(count: int, padding: int = 0) -> ClipKeys:
    """Returns keys of clips that are all negatives of each other, followed by empty slots."""
    numbers = jnp.arange(count + padding)
    return ClipKeys(numbers < count, numbers, numbers)


@functools.partial(jax.jit, static_argnums=(0, 4))
def loss_of(form: str, audio, text, keys, block=1_024):
    if form == "softmax":
        return softmax_loss(audio, text, jnp.float32(1 / 0.07), keys, block=block)
    return sigmoid_loss(audio, text, jnp.float32(10.0), jnp.float32(-10.0), keys, block=block)


@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients_equal_open_clip(form):
    golden = np.load(GOLDEN)
    audio, text = (jnp.asarray(golden[name], jnp.float32) for name in ("audio", "text"))
    value, gradients = jax.value_and_grad(lambda a, t: loss_of(form, a, t, distinct(len(audio)), 3), argnums=(0, 1))(
        audio, text
    )
    np.testing.assert_allclose(value, golden[f"{form}_loss"], rtol=1e-5)
    np.testing.assert_allclose(gradients[0], golden[f"{form}_audio_gradient"], atol=2e-5)
    np.testing.assert_allclose(gradients[1], golden[f"{form}_text_gradient"], atol=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_empty_slots_change_nothing_and_get_no_gradient(form):
    golden = np.load(GOLDEN)
    audio, text = (jnp.asarray(golden[name], jnp.float32) for name in ("audio", "text"))
    expected = loss_of(form, audio, text, distinct(len(audio)))
    np.testing.assert_allclose(expected, golden[f"{form}_loss"], rtol=1e-5)
    junk = jnp.full((3, audio.shape[1]), 7.0)
    padded = (jnp.concatenate([audio, junk]), jnp.concatenate([text, junk]))
    keys = distinct(len(audio), padding=3)
    value, gradient = jax.value_and_grad(lambda a: loss_of(form, a, padded[1], keys))(padded[0])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_array_equal(gradient[len(audio) :], 0.0)


def problem(clips: int, seed: int = 0):
    """Unit vectors, keys with empty slots and with repeated recordings and captions, and weights."""
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


@pytest.mark.parametrize(
    ("sizes", "form", "weighted", "clips", "block"),
    [
        *((*case, 48, 4) for case in CASES),
        ((2, 2, 2), "softmax", False, 12, 2),  # 3 clips on each of 4 batch shards: `tensor` does not divide them
    ],
)
def test_value_and_gradients_equal_the_dense_loss_on_every_mesh(mesh_of, sizes, form, weighted, clips, block):
    *inputs, weights = problem(clips)
    mesh = mesh_of(*sizes)
    audio, text, keys, weights = jax.device_put((*inputs, weights if weighted else None), batch_sharding(mesh))
    ours = jax.jit(jax.value_and_grad(losses(form, block)[0], argnums=(0, 1, 2, 3)))
    with jax.set_mesh(mesh):
        value, gradients = ours(audio, text, *NUMBERS, keys, weights)
    expected, expected_gradients = dense_value_and_gradients(form, clips, weighted)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for result, target in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(result, target, atol=3e-6 * np.max(np.abs(target)))
    assert form == "softmax" or float(expected_gradients[3]) != 0


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


def test_same_recording_and_same_caption_are_not_negatives():
    batch = batch_of([[1, 5, 6, 2], [1, 6, 5, 2], [1, 5, 6, 2], [1, 9, 2]], keys=[10, 11, 12, 11])
    keys = clip_keys(batch)
    expected = np.ones((5, 5), bool)
    expected[4], expected[:, 4] = False, False
    np.fill_diagonal(expected, False)
    expected[0, 2] = expected[2, 0] = False  # equal captions
    expected[1, 3] = expected[3, 1] = False  # one recording
    np.testing.assert_array_equal(negatives_mask(keys, keys), expected)
    np.testing.assert_array_equal(keys.valid, [True] * 4 + [False])


def test_caption_keys_do_not_depend_on_the_position_in_the_row():
    keys = np.asarray(caption_keys(batch_of([[1, 5, 6, 2], [1, 7, 2]], [0, 0])))
    swapped = np.asarray(caption_keys(batch_of([[1, 7, 2], [1, 5, 6, 2]], [0, 0])))
    np.testing.assert_array_equal(keys[0, :2], swapped[0, 1::-1])
    assert keys[0, 0] != keys[0, 1]


def test_embedding_spread_detects_collapse():
    valid = jnp.ones(4, bool)
    collapsed = jnp.tile(jnp.array([[0.6, 0.8]]), (4, 1))
    opposite = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    np.testing.assert_allclose(spread(collapsed, valid), 0.0, atol=1e-6)
    np.testing.assert_allclose(spread(opposite, valid), 1.0, atol=1e-6)


EMBED_DIM, BLOCK = 16, 32
COLLECTIVE = r"(all-gather|all-to-all|reduce-scatter|collective-permute|all-reduce)(?:-start)?\("


def largest_array(program: str) -> int:
    """Returns the number of elements of the largest array in a compiled program."""
    return max((math.prod(map(int, shape.split(","))) for shape in re.findall(r"\w\[(\d[\d,]*)\]", program)), default=1)


@pytest.mark.parametrize("form", FORMS)
def test_no_array_is_larger_than_a_tile_or_the_clips_of_the_device(form):
    clips, devices = 1_024, jax.devices()
    program = compiled_gradient(tiled(form, BLOCK), clips, EMBED_DIM, devices).as_text()
    assert largest_array(program) == max(BLOCK**2, clips // len(devices) * EMBED_DIM)
    assert set(re.findall(COLLECTIVE, program)) == {"collective-permute", "all-reduce"}
    sums = re.findall(r"= (.*?) all-reduce(?:-start)?\(", program)
    assert sums and all(largest_array(shape) == 1 for shape in sums)
    # The same search finds what the dense loss holds.
    program = compiled_gradient(dense(form), clips, EMBED_DIM, devices).as_text()
    assert largest_array(program) >= clips**2 // len(devices)


@pytest.mark.parametrize("form", FORMS)
def test_temporaries_scale_with_the_clips_of_a_device(form):
    def temporaries(clips: int, count: int) -> int:
        return temporary_bytes(tiled(form, BLOCK), clips, EMBED_DIM, jax.devices()[:count])

    of_512, of_256, of_128 = (temporaries(1_024, count) for count in (2, 4, 8))
    # Half of the part that grows with the clips, plus a constant tile.
    assert of_128 < 0.75 * of_256 and of_256 < 0.75 * of_512
    # Twice the batch on twice the devices needs the same memory: nothing grows with the global batch.
    assert temporaries(2_048, 8) == of_256
    # Memory is linear: twice as many clips add twice as much. All scores would add four times as much.
    assert of_512 - of_256 < 2.5 * (of_256 - of_128)


def test_keys_of_clips_are_computed_on_the_devices_of_their_rows(mesh_of):
    mesh = mesh_of(2, 2, 2)
    rows = batch_sharding(mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), batch_shapes(8, 16, 4, 32, 2_560)
    )
    program = jax.jit(clip_keys, out_shardings=rows).lower(batch).compile().as_text() or ""
    assert not re.findall(COLLECTIVE, program)
    assert 1 < largest_array(program) < 8 * 32  # the tokens of all rows


# The reduction over all pairs meets each one once, for any number of devices and any block.


def sums_of_pairs(audio, text, block):
    """Sums small positive integers, so that the sums are exact and padding (0) is recognised."""

    def tile(audio, text):
        pairs = jnp.where((audio[:, None] > 0) & (text[:, 0] > 0), audio[:, None] + text[:, 0] ** 2, 0.0)
        return {"audio": jnp.sum(pairs, axis=1)}, (jnp.sum(pairs, axis=0), jnp.sum(pairs, axis=0)[:, None])

    return jax.jit(lambda audio, text: reduce_over_pairs(tile, audio, text, block))(audio, text)


@pytest.mark.parametrize(
    ("clips", "block", "sizes"),
    [
        (24, 24, (1, 1, 1)),
        (20, 7, (1, 1, 1)),
        (24, 2, (8, 1, 1)),
        (24, 2, (2, 2, 2)),
        (20, 2, (2, 2, 2)),
        (24, 1, (1, 1, 8)),
    ],
)
def test_every_pair_is_visited_once_and_results_return_to_their_device(mesh_of, clips, block, sizes):
    audio, text = np.arange(1.0, clips + 1), np.arange(1.0, 2 * clips + 1).reshape(clips, 2)
    pairs = audio[:, None] + text[:, 0] ** 2
    mesh = mesh_of(*sizes)
    audio, text = (jax.device_put(x, batch_sharding(mesh)) for x in (audio, text))
    with jax.set_mesh(mesh):
        audio_sums, (text_sums, column) = sums_of_pairs(audio, text, block)
    np.testing.assert_array_equal(audio_sums["audio"], pairs.sum(axis=1))
    np.testing.assert_array_equal(text_sums, pairs.sum(axis=0))
    np.testing.assert_array_equal(column, text_sums[:, None])


def test_merge_can_be_any_reduction():
    audio, text = jnp.asarray([3.0, 1.0, 2.0]), jnp.asarray([1.0, 5.0, 2.0])

    def tile(audio, text):
        pairs = jnp.where(text > 0, audio[:, None] - text, -jnp.inf)
        return jnp.max(pairs, axis=1), jnp.max(pairs, axis=0)

    audio_max, text_max = reduce_over_pairs(tile, audio, text, 2, merge=jnp.maximum, identity=-jnp.inf)
    np.testing.assert_array_equal(audio_max, [2.0, 0.0, 1.0])
    np.testing.assert_array_equal(text_max, [2.0, -2.0, 1.0])


def test_the_clips_are_split_over_tensor_if_it_divides_them(mesh_of):
    with jax.set_mesh(mesh_of(2, 2, 2)):
        assert ring_axes(24) == ("data", "fsdp", "tensor")
        assert ring_axes(20) == ("data", "fsdp")
    assert ring_axes(7) == ("data", "fsdp", "tensor")  # without a mesh every axis has size 1
