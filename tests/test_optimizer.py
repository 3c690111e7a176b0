"""Schedules, which leaves decay, and learning-rate factors by path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.config import ConfigError, default_config
from slap_jax.optimizer import create_optimizer, decay_mask, learning_rate_factors, learning_rate_schedule
from slap_jax.paths import flatten
from slap_jax.train_state import abstract_learner, create_state
from tests.tiny import tiny_config


def rates(steps: tuple[int, ...], **changes) -> list[float]:
    """The learning rates of some of 100 updates, of which the first 10 warm up to 1."""
    optimizer = default_config().optimizer
    optimizer.update(learning_rate=1.0, warmup_steps=10, **changes)
    schedule = learning_rate_schedule(optimizer, 100)
    return [float(np.asarray(schedule(step))) for step in steps]


def test_warm_up_moves_from_the_first_update_and_reaches_the_peak():
    for kind in ("cosine", "wsd", "constant"):
        np.testing.assert_allclose(rates((0, 4, 9, 10), schedule=kind), [0.1, 0.5, 1.0, 1.0], rtol=1e-5)


def test_cosine_ends_at_the_final_factor():
    np.testing.assert_allclose(rates((100,)), [0.0], atol=1e-6)
    np.testing.assert_allclose(rates((55, 100), final_factor=0.1), [0.55, 0.1], rtol=1e-5)


def test_wsd_holds_then_decays_over_the_last_share():
    found = rates((50, 80, 90, 100), schedule="wsd", decay_fraction=0.2)
    np.testing.assert_allclose(found, [1.0, 1.0, 0.5, 0.0], atol=1e-6)


def test_matrices_decay_and_nothing_else():
    config = tiny_config()
    transform = create_optimizer(config.optimizer, config.train.steps)
    params = jax.eval_shape(lambda: create_state(config, transform)).params
    decayed = flatten(decay_mask(params))
    kept_out = {path.rpartition("/")[2] for path, value in decayed.items() if not value}
    assert kept_out == {"scale", "bias", "probe", "mask_token", "log_scale"}
    assert {path.rpartition("/")[2] for path, value in decayed.items() if value} == {"kernel", "table", "prototypes"}


def test_the_first_matching_factor_counts_and_zero_freezes():
    params = {"audio": {"kernel": jnp.ones((2, 2))}, "text": {"kernel": jnp.ones((2, 2))}, "head": jnp.ones(2)}
    rules = (("^text", 0.0), ("kernel$", 0.5))
    assert flatten(learning_rate_factors(params, rules)) == {"audio/kernel": 0.5, "head": 1.0, "text/kernel": 0.0}
    optimizer = default_config().optimizer
    optimizer.update(learning_rate=0.1, warmup_steps=0, schedule="constant", weight_decay=0.5)
    optimizer.learning_rate_factors = rules
    transform = create_optimizer(optimizer, 10)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates = flatten(transform.update(gradients, transform.init(params), params)[0])
    np.testing.assert_array_equal(updates["text/kernel"], 0.0)
    np.testing.assert_allclose(updates["audio/kernel"], -0.1 * (1.0 + 0.5) * 0.5, rtol=1e-4)
    np.testing.assert_allclose(updates["head"], -0.1, rtol=1e-4)


def test_a_factor_that_matches_nothing_is_an_error():
    with pytest.raises(ConfigError, match=r"no parameter's path matches 'audoi'"):
        learning_rate_factors({"audio": jnp.ones(1)}, (("audoi", 0.1),))


def test_learner_is_made_of_shapes_only():
    leaves = jax.tree.leaves(abstract_learner(tiny_config()))
    assert leaves and all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
