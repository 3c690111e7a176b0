"""The prototype head, the schedules of the teacher, and how masked patches are gathered."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from slap_jax.config.defaults import default_config
from slap_jax.objectives.base import random_mask
from slap_jax.objectives.distillation import PrototypeHead, SelfDistillation, gather_positions, masked_positions


def test_head_gives_unit_vectors_and_frozen_prototypes_get_no_gradient():
    head = PrototypeHead(8, 16, 4, 10, jnp.float32, rngs=nnx.Rngs(0))
    tokens = jax.random.normal(jax.random.key(0), (6, 8))
    for lengths in (
        jnp.linalg.norm(head.normalized_tokens(tokens), axis=-1),
        jnp.linalg.norm(head.normalized_prototypes(), axis=0),
    ):
        np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)
    for freeze in (True, False):
        gradients = nnx.grad(
            lambda head, freeze=freeze: jnp.sum(
                (head.normalized_tokens(tokens) @ head.normalized_prototypes(freeze)) ** 2
            )
        )(head)
        assert bool(np.any(np.asarray(gradients.prototypes[...]) != 0)) is not freeze
        assert np.any(np.asarray(gradients.input.kernel[...]) != 0)


def test_schedules_run_from_start_to_end():
    config = default_config()
    with config.unlocked():
        config.model.audio_encoder.width = 24
    settings = config.objectives.distillation
    settings.hidden, settings.bottleneck, settings.prototypes = 8, 4, 8
    objective = SelfDistillation(config, rngs=nnx.Rngs(0))
    momentum = [float(objective.teacher_momentum(jnp.float32(p))) for p in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(momentum, [0.994, 0.997, 1.0], atol=1e-6)
    temperature = [float(objective.teacher_temperature(jnp.float32(p))) for p in (0.0, 0.05, 0.1, 1.0)]
    np.testing.assert_allclose(temperature, [0.04, 0.055, 0.07, 0.07], atol=1e-6)


def test_gathers_exactly_the_masked_positions():
    segment_ids = jnp.array([[1] * 8 + [2] * 4 + [3] * 12 + [0] * 8, [1] * 5 + [2] * 20 + [3] * 7])
    mask = random_mask(jax.random.split(jax.random.key(1), 2), segment_ids, 3, 0.5)
    positions, valid = masked_positions(mask, 3, 0.5)
    for row in range(2):
        np.testing.assert_array_equal(np.sort(positions[row][valid[row]]), np.flatnonzero(mask[row]))
    assert positions.shape[1] == 18  # 0.5 * 32 + 0.5 * 3 rounded down, and one


def test_gathered_tokens_pass_their_gradient_back_to_their_positions():
    tokens = jax.random.normal(jax.random.key(0), (2, 5, 3))
    positions = jnp.array([[3, 0, 4], [1, 2, 0]])
    expected, expected_vjp = jax.vjp(lambda x: jnp.take_along_axis(x, positions[..., None], axis=1), tokens)
    result, vjp = jax.vjp(lambda x: gather_positions(x, positions), tokens)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(vjp(result)[0], expected_vjp(expected)[0])
