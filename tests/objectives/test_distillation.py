"""Sinkhorn against a NumPy version, its invariances, and the schedules of the teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slap_jax.config import default_config
from slap_jax.objectives.distillation import PrototypeHead, SelfDistillation, sinkhorn


def numpy_sinkhorn(scores: np.ndarray, temperature: float, iterations: int) -> np.ndarray:
    """Equation 5 of the method, tokens as columns, in float64."""
    q = np.exp((scores.astype(np.float64) - scores.max()) / temperature).T
    prototypes, tokens = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * prototypes
        q /= q.sum(axis=0, keepdims=True) * tokens
    return (q * tokens).T


def scores_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("iterations", [1, 3])
def test_equals_numpy(iterations):
    scores = scores_of((40, 16))
    ours = sinkhorn(jnp.asarray(scores), jnp.ones(40, bool), 0.05, iterations)
    np.testing.assert_allclose(ours, numpy_sinkhorn(scores, 0.05, iterations), atol=1e-6)


def test_padding_takes_no_part():
    scores = scores_of((3, 10, 16))
    valid = np.arange(30).reshape(3, 10) % 3 != 0
    ours = np.asarray(sinkhorn(jnp.asarray(scores), jnp.asarray(valid), 0.05, 3))
    np.testing.assert_allclose(ours[valid], numpy_sinkhorn(scores[valid], 0.05, 3), atol=1e-6)
    np.testing.assert_array_equal(ours[~valid], 0.0)


def test_assignments_are_balanced_over_the_prototypes():
    assignment = np.asarray(sinkhorn(jnp.asarray(scores_of((64, 8))), jnp.ones(64, bool), 0.05, 10))
    np.testing.assert_allclose(assignment.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(assignment.sum(axis=0), 8.0, rtol=0.05)


def test_nothing_masked_gives_zeros_and_no_nan():
    assignment = sinkhorn(jnp.asarray(scores_of((5, 8))), jnp.zeros(5, bool), 0.05, 3)
    np.testing.assert_array_equal(assignment, 0.0)


def test_head_scores_are_cosines_and_frozen_prototypes_get_no_gradient():
    head = PrototypeHead(8, 16, 4, 10, jnp.float32, rngs=nnx.Rngs(0))
    tokens = jax.random.normal(jax.random.key(0), (6, 8))
    assert np.all(np.abs(head.scores(head.units(tokens))) <= 1 + 1e-5)
    for freeze in (True, False):
        gradients = nnx.grad(lambda head, freeze=freeze: jnp.sum(head.scores(head.units(tokens), freeze) ** 2))(head)
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
