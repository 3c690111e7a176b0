"""Computing a batch in parts gives the loss, metrics and gradient of the whole batch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.parallel.sharding import AXES, batch_sharding, create_mesh
from slap_jax.training.grad_cache import merge_rows, split_rows, value_and_grad_in_parts
from slap_jax.training.optimizer import create_optimizer
from slap_jax.training.state import abstract_learner, create_state, graph_of
from slap_jax.training.step import StepLoss
from tests.tiny import tiny_batch, tiny_config

pytestmark = pytest.mark.compile


@functools.cache
def state_of(form, weights):
    """The initial state, which does not depend on the settings under test."""
    config = tiny_config(**dict(weights))
    config.objectives.contrastive.form = form
    return jax.device_get(
        jax.jit(lambda: create_state(config, create_optimizer(config.optimizer, config.train.steps)))()
    )


def gradient_of(config, batch, mesh=None):
    weights = tuple((name, objective.weight) for name, objective in config.objectives.items())
    state = state_of(config.objectives.contrastive.form, weights)
    graph = graph_of(abstract_learner(config))
    function = jax.jit(
        lambda params, teacher, batch, step: StepLoss(config, graph, teacher, step).metrics_and_grad(params, batch)
    )
    if mesh is None:
        return jax.device_get(function(state.params, state.teacher, batch, state.step))
    with jax.set_mesh(mesh):
        return jax.device_get(
            function(state.params, state.teacher, jax.device_put(batch, batch_sharding(mesh)), state.step)
        )


@pytest.fixture(scope="module")
def whole():
    config = tiny_config()
    return gradient_of(config, tiny_batch(config))


def assert_same(result, expected):
    metrics, gradient = result
    for name, value in expected[0].items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    largest = max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(expected[1]))
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=3e-6 * largest), gradient, expected[1]
    )


@pytest.mark.parametrize("parts", [2, 8])
def test_gradient_of_the_step_is_that_of_the_whole_batch(whole, parts):
    config = tiny_config()
    config.train.accumulate = parts
    assert_same(gradient_of(config, tiny_batch(config)), whole)


def test_parts_are_of_every_device_on_a_mesh(whole):
    config = tiny_config()
    config.train.accumulate = 2
    config.parallel.update(data=2, fsdp=2, tensor=1)
    assert_same(gradient_of(config, tiny_batch(config), create_mesh(config.parallel, jax.devices()[:4])), whole)


def contrastive_config(form):
    """Enough clips that every device has some of each part, in several tiles."""
    config = tiny_config(distillation=0.0, captioning=0.0)
    config.data.rows = 16
    config.objectives.contrastive.update(form=form, block=4)
    return config


@functools.cache
def whole_contrastive(form):
    config = contrastive_config(form)
    return gradient_of(config, tiny_batch(config))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_every_contrastive_form_in_parts_on_a_mesh_has_the_gradient_of_the_whole_batch(form, sizes):
    config = contrastive_config(form)
    config.train.accumulate = 2
    config.parallel.update(dict(zip(AXES, sizes, strict=True)))
    result = gradient_of(config, tiny_batch(config), create_mesh(config.parallel))
    assert_same(result, whole_contrastive(form))
    assert float(np.abs(result[1]["objectives"]["contrastive"]["log_scale"])) > 0


def test_a_loss_of_all_pairs_of_rows_is_not_the_sum_over_parts():
    """Summing the losses of the parts would get this case wrong."""
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((8, 3)), jnp.float32)
    params = jnp.ones((3, 2))

    def features(params, rows):
        return {"vector": jnp.tanh(rows[0] @ params), "number": rows[1]}

    def loss(params, features):
        scores = features["vector"] @ features["vector"].T * (1 + features["number"][:, None])
        value = jnp.mean(jax.nn.logsumexp(scores, axis=1)) + jnp.sum(params**2)
        return value, features["number"]

    batch: Any = (rows, jnp.arange(8))  # stands for rows of a batch and their numbers
    expected = jax.value_and_grad(lambda params: loss(params, features(params, batch)), has_aux=True)(params)
    for parts in (1, 2, 4, 8):
        (value, numbers), gradient = value_and_grad_in_parts(features, loss, params, batch, parts)
        np.testing.assert_array_equal(numbers, np.arange(8))
        np.testing.assert_allclose(value, expected[0][0], rtol=1e-6)
        np.testing.assert_allclose(gradient, expected[1], rtol=2e-6)
    alone = [jax.grad(lambda p, i=i: loss(p, features(p, (rows[i::2], batch[1][i::2])))[0])(params) for i in (0, 1)]
    assert np.max(np.abs((alone[0] + alone[1]) / 2 - expected[1])) > 1e-3


def test_splitting_and_merging_rows_are_inverse():
    rows = jnp.arange(24).reshape(12, 2)
    cut = split_rows(rows, 3)
    np.testing.assert_array_equal(cut[1], rows[1::3])
    np.testing.assert_array_equal(merge_rows(cut), rows)
