"""What the passes of the towers share is computed once; patch masks; each objective with weighted sources against a
dense one, written as loops over clips.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slap_jax.batch import PackedBatch
from slap_jax.config.defaults import source
from slap_jax.objectives import Captioning, Contrastive, SelfDistillation
from slap_jax.objectives.base import (
    BatchContext,
    StepContext,
    clip_weights,
    random_mask,
    segment_counts,
    token_weights,
)
from slap_jax.objectives.contrastive import clip_keys, negatives_mask
from slap_jax.training.optimizer import create_optimizer
from slap_jax.training.state import abstract_learner, create_state, graph_of
from slap_jax.training.step import StepLoss
from tests.objectives.test_distillation import numpy_sinkhorn
from tests.tiny import tiny_batch, tiny_config

pytestmark = pytest.mark.compile


def equations(jaxpr):
    """Yields all equations of a program, including those in loops and calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def traced(**settings):
    config = tiny_config()
    config.objectives.distillation.update(settings)
    state = jax.eval_shape(lambda: create_state(config, create_optimizer(config.optimizer, config.train.steps)))
    loss = step_loss(config)
    return config, jax.make_jaxpr(loss)(state.params, state.teacher, tiny_batch(config), state.step).jaxpr


def step_loss(config):
    graph = graph_of(abstract_learner(config))
    return lambda params, teacher, batch, step: StepLoss(config, graph, teacher, step)(params, batch)


def test_the_front_end_runs_once_for_all_passes():
    config, jaxpr = traced()
    assert config.audio.dft == "auto"
    assert sum(equation.primitive.name == "fft" for equation in equations(jaxpr)) == 1


@pytest.mark.parametrize(("view", "passes"), [("separate", 3), ("shared", 2)])
def test_audio_towers_run_as_often_as_the_objectives_need(view, passes):
    config, jaxpr = traced(view=view)
    width = config.model.audio_encoder.width
    rows, length = config.data.rows, 4 * config.data.columns

    def is_audio_tower(equation) -> bool:
        return equation.primitive.name == "scan" and [v.aval.shape for v in equation.outvars] == [(rows, length, width)]

    assert sum(is_audio_tower(equation) for equation in equations(jaxpr)) == passes


MASKED_SEGMENTS = jnp.array([[1] * 8 + [2] * 4 + [3] * 12 + [0] * 8, [1] * 5 + [2] * 20 + [3] * 7])


def row_keys(seed: int) -> jax.Array:
    return jax.random.split(jax.random.key(seed), 2)


def test_masks_the_rounded_fraction_of_every_clip_and_no_padding():
    for seed in range(5):
        mask = random_mask(row_keys(seed), MASKED_SEGMENTS, 3, 0.5)
        counts = segment_counts(jnp.where(mask, MASKED_SEGMENTS, 0), 3)[:, 1:]
        np.testing.assert_array_equal(counts, [[4, 2, 6], [2, 10, 4]])  # round half to even: 2.5 -> 2, 3.5 -> 4
        assert not np.any(mask & (MASKED_SEGMENTS == 0))


def test_every_patch_is_masked_about_equally_often():
    keys = jax.random.split(jax.random.key(0), (400, 2))
    fraction = jnp.mean(jax.vmap(lambda keys: random_mask(keys, MASKED_SEGMENTS, 3, 0.5))(keys), axis=0)
    np.testing.assert_allclose(fraction[0, :24], 0.5, atol=0.12)


def test_the_mask_of_a_row_does_not_depend_on_other_rows():
    keys = row_keys(2)
    both = random_mask(keys, MASKED_SEGMENTS, 3, 0.5)
    np.testing.assert_array_equal(both[1:], random_mask(keys[1:], MASKED_SEGMENTS[1:], 3, 0.5))
    assert np.any(np.asarray(both[0]) != np.asarray(random_mask(keys[1:], MASKED_SEGMENTS[:1], 3, 0.5)[0]))


@pytest.mark.parametrize("ratio", [0.02, 0.5, 0.97])
def test_the_patches_of_the_smallest_noise_of_each_clip_are_masked(ratio):
    keys = row_keys(3)
    mask = np.asarray(random_mask(keys, MASKED_SEGMENTS, 3, ratio))
    for row, key in enumerate(keys):
        noise = np.asarray(jax.random.uniform(key, MASKED_SEGMENTS.shape[1:]))
        for slot in (1, 2, 3):
            patches = np.flatnonzero(MASKED_SEGMENTS[row] == slot)
            smallest = patches[np.argsort(noise[patches])][: round(ratio * len(patches))]
            np.testing.assert_array_equal(patches[mask[row, patches]], np.sort(smallest))


HALFWAY = jnp.float32(0.5)
NAMES = ("contrastive", "distillation", "captioning")


def two_sources(first: float, second: float):
    """Two rows of clips from two sources, "first" (0) and "second" (1), with different factors for every objective."""
    config = tiny_config()
    config.data.rows = 2
    with config.data.train.unlocked():
        del config.data.train.scenes
    for name, factor in (("first", first), ("second", second)):
        config.data.train[name] = source("unused", "train", objectives=dict.fromkeys(NAMES, factor))
    batch = tiny_batch(config)
    keys, valid = np.array(batch.clip_key), np.array(batch.clip_valid)
    keys[0, 1] = keys[0, 0]  # two parts of one recording, not negatives of each other
    valid[1, 3] = False
    generator = np.random.default_rng(3)
    sources = generator.permutation(np.arange(keys.size) % 2).reshape(keys.shape).astype(np.int32)
    batch = without(batch.replace(clip_key=keys, clip_source=sources), ~valid)
    return config, batch, np.where(valid, np.where(sources == 0, first, second), 0.0)


def without(batch: PackedBatch, clips: np.ndarray) -> PackedBatch:
    """Returns the batch with the slots of these clips emptied."""

    def emptied(segments: Any) -> np.ndarray:
        gone = np.take_along_axis(np.pad(clips, ((0, 0), (1, 0))), np.asarray(segments), axis=1)
        return np.where(gone, 0, segments)

    return batch.replace(
        audio_segment_ids=emptied(batch.audio_segment_ids),
        text_segment_ids=emptied(batch.text_segment_ids),
        clip_valid=np.asarray(batch.clip_valid) & ~clips,
    )


def context_of(config: Any, batch: PackedBatch, teacher_objectives: dict | None = None, **tensors: Any) -> StepContext:
    """A StepContext whose tensors are given, so that no tower runs."""
    nothing = cast(Any, None)
    rows = jnp.arange(batch.clip_valid.shape[0])
    made = StepContext(nothing, nothing, teacher_objectives or {}, batch, rows, jax.random.key(0), config)
    for name, value in tensors.items():
        setattr(made, name, value)
    return made


def loss_of(objective: Any, context: StepContext) -> jax.Array:
    batch_context = BatchContext(context.batch, context.teacher_objectives, HALFWAY, context.config)
    return objective.loss(objective.forward(context), batch_context).loss


def assert_same_value_and_gradient(ours, expected, *arguments: jax.Array):
    argnums = tuple(range(len(arguments)))
    value, gradients = jax.jit(jax.value_and_grad(ours, argnums))(*arguments)
    expected_value, expected_gradients = jax.jit(jax.value_and_grad(expected, argnums))(*arguments)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    for gradient, target in zip(gradients, expected_gradients, strict=True):
        assert np.any(np.asarray(target) != 0)
        np.testing.assert_allclose(gradient, target, atol=1e-5 * float(jnp.max(jnp.abs(target))) + 1e-7)


def test_weights_are_looked_up_by_source_and_empty_slots_count_nothing():
    config, batch, expected = two_sources(0.5, 3.0)
    result = clip_weights(batch, config.data.train, "captioning")
    np.testing.assert_array_equal(result, expected)
    assert result is not None and set(np.asarray(result).ravel()) == {0.0, 0.5, 3.0}
    per_token = token_weights(result, jnp.asarray(batch.text_segment_ids))
    for row, column in np.ndindex(*per_token.shape):
        segment = batch.text_segment_ids[row, column]
        assert per_token[row, column] == (expected[row, segment - 1] if segment else 0.0)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_sources_with_equal_factors_have_no_weights(factor):
    config, batch, _ = two_sources(factor, factor)
    assert all(clip_weights(batch, config.data.train, name) is None for name in NAMES)


@pytest.mark.parametrize(
    ("form", "factors"), [("softmax", (0.5, 3.0)), ("softmax", (0.0, 1.0)), ("sigmoid", (0.5, 3.0))]
)
def test_contrastive_equals_a_dense_one(form, factors):
    config, batch, weights = two_sources(*factors)
    config.objectives.contrastive.form = form
    objective = Contrastive(config, rngs=nnx.Rngs(0))
    shape = (*batch.clip_valid.shape, config.model.embed_dim)
    audio, text = (jax.random.normal(jax.random.key(seed), shape) / 4 for seed in (0, 1))
    weights, clips = weights.ravel(), np.flatnonzero(weights.ravel())
    keys = clip_keys(batch)
    allowed = np.asarray(negatives_mask(keys, keys))

    def dense(audio, text):
        logits = objective.scale * (audio.reshape(-1, shape[-1]) @ text.reshape(-1, shape[-1]).T)
        total = 0.0
        for anchor in clips:
            others = [other for other in clips if allowed[anchor, other]]
            for scores in (logits[anchor], logits[:, anchor]):
                if form == "softmax":
                    loss = jax.nn.logsumexp(scores[jnp.array([anchor, *others])]) - scores[anchor]
                else:
                    bias = objective.bias[...]
                    loss = -jax.nn.log_sigmoid(scores[anchor] + bias)
                    loss -= jnp.sum(jax.nn.log_sigmoid(-scores[jnp.array(others)] - bias))
                total += weights[anchor] * loss / 2
        return total / weights.sum()

    def ours(audio, text):
        return loss_of(objective, context_of(config, batch, audio_embeddings=audio, text_embeddings=text))

    assert_same_value_and_gradient(ours, dense, audio, text)


@pytest.mark.parametrize("factors", [(0.5, 3.0), (0.0, 1.0)])
def test_distillation_equals_a_dense_one(factors):
    config, batch, weights = two_sources(*factors)
    settings = config.objectives.distillation
    objective, teacher = (SelfDistillation(config, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    context = context_of(config, batch)
    mask, segments = np.asarray(context.mask), np.asarray(context.token_segment_ids)
    shape = (*mask.shape, config.model.audio_encoder.width)
    student_tokens, teacher_tokens = (jax.random.normal(jax.random.key(seed), shape) for seed in (0, 1))
    counted = mask & (np.take_along_axis(np.pad(weights, ((0, 0), (1, 0))), segments, axis=1) > 0)
    temperature = float(objective.teacher_temperature(HALFWAY))
    targets = numpy_sinkhorn(
        np.asarray(teacher.head.normalized_tokens(teacher_tokens[counted]) @ teacher.head.normalized_prototypes()),
        temperature,
        3,
    )
    assignment = np.zeros((*mask.shape, settings.prototypes))
    assignment[counted] = targets

    def dense(student_tokens):
        scores = objective.head.normalized_tokens(student_tokens) @ objective.head.normalized_prototypes()
        losses = -jnp.sum(assignment * jax.nn.log_softmax(scores / settings.student_temperature), axis=-1)
        total = 0.0
        for row, slot in np.argwhere(weights > 0):
            patches = np.flatnonzero(counted[row] & (segments[row] == slot + 1))
            total += weights[row, slot] * jnp.mean(losses[row, patches])
        return total / weights.sum()

    def ours(student_tokens):
        tokens = {"masked_audio_tokens": student_tokens, "teacher_audio_tokens": teacher_tokens}
        return loss_of(objective, context_of(config, batch, {"distillation": teacher}, **tokens))

    assert_same_value_and_gradient(ours, dense, student_tokens)


@pytest.mark.parametrize("factors", [(0.5, 3.0), (0.0, 1.0)])
def test_captioning_equals_a_dense_one(factors):
    config, batch, weights = two_sources(*factors)
    objective = Captioning(config, rngs=nnx.Rngs(0))
    segments = context_of(config, batch).token_segment_ids
    audio_tokens = jax.random.normal(jax.random.key(0), (*segments.shape, config.model.audio_encoder.width))
    text_segment_ids, tokens = np.asarray(batch.text_segment_ids), np.asarray(batch.text_tokens)

    def dense(audio_tokens):
        text = (batch.text_tokens, batch.text_segment_ids, batch.text_positions)
        hidden = objective.decoder(*text, audio_tokens, segments)
        predicted = jax.nn.log_softmax(hidden @ objective.decoder.embedding.table[...].T, axis=-1)
        total, count = 0.0, 0.0
        for row, slot in np.argwhere(weights > 0):
            places = np.flatnonzero(text_segment_ids[row] == slot + 1)
            following = tokens[row, places[1:]]
            total -= weights[row, slot] * jnp.sum(predicted[row, places[:-1], following])
            count += weights[row, slot] * len(following)
        return total / count

    def ours(audio_tokens):
        return loss_of(objective, context_of(config, batch, audio_tokens=audio_tokens))

    assert_same_value_and_gradient(ours, dense, audio_tokens)


def test_zero_weights_give_zeros_and_no_nan():
    config, batch, weights = two_sources(0.0, 1.0)
    batch = without(batch, weights > 0)  # only clips of the source with factor 0
    objective = Contrastive(config, rngs=nnx.Rngs(0))
    embeddings = jnp.ones((*batch.clip_valid.shape, config.model.embed_dim))

    def loss(audio):
        return loss_of(objective, context_of(config, batch, audio_embeddings=audio, text_embeddings=embeddings))

    value, gradient = jax.value_and_grad(loss)(embeddings)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def loss_function(config):
    transform = create_optimizer(config.optimizer, config.train.steps)
    return jax.jit(jax.value_and_grad(step_loss(config), has_aux=True)), lambda: create_state(config, transform)


def test_a_source_of_factor_zero_trains_as_if_it_were_not_in_the_batch():
    config, batch, weights = two_sources(0.0, 1.0)
    gradient_of, init = loss_function(config)
    state = jax.jit(init)()
    (_, metrics), gradients = gradient_of(state.params, state.teacher, batch, state.step)
    left_out = without(batch, weights == 0.0)
    gradient_of, _ = loss_function(two_sources(1.0, 1.0)[0])
    (_, expected), expected_gradients = gradient_of(state.params, state.teacher, left_out, state.step)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-6), gradients, expected_gradients
    )


def test_sources_with_equal_factors_compile_to_the_program_of_one_source():
    texts = set()
    for factor, names in ((1.0, ("first",)), (1.0, ("first", "second")), (2.0, ("first", "second"))):
        config, batch, _ = two_sources(factor, factor)
        with config.data.train.unlocked():
            for name in {"first", "second"} - set(names):
                del config.data.train[name]
        gradient_of, init = loss_function(config)
        state = jax.eval_shape(init)
        texts.add(gradient_of.lower(state.params, state.teacher, batch, state.step).as_text())
    assert len(texts) == 1
