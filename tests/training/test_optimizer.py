"""Schedules, the parameters that decay, and learning-rate factors by path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.config.defaults import default_config
from slap_jax.config.rules import ConfigError
from slap_jax.params import flatten
from slap_jax.training.optimizer import (
    create_optimizer,
    decay_mask,
    layer_decay_factors,
    learning_rate_factors,
    learning_rate_schedule,
    stop_frozen,
)
from slap_jax.training.state import abstract_learner, create_state
from tests.tiny import tiny_config

pytestmark = pytest.mark.compile


def rates(steps: tuple[int, ...], **changes) -> list[float]:
    """Returns the learning rates at some of 100 updates, of which the first 10 warm up to 1."""
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
    result = rates((50, 80, 90, 100), schedule="wsd", decay_fraction=0.2)
    np.testing.assert_allclose(result, [1.0, 1.0, 0.5, 0.0], atol=1e-6)


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


def layer_loop(config, decay: float) -> dict[str, list[float]]:
    """The factors of all layers of both encoders, from the lowest, and of the parameters below them."""
    factors = {}
    for name in ("audio_encoder", "text_encoder"):
        layers = config.model[name].layers
        factors[name] = [decay ** (layers + 1 - layer) for layer in range(layers + 1)]  # 0: below the first
    return factors


def test_layer_decay_equals_a_loop_over_the_layers():
    config = tiny_config()
    config.model.audio_encoder.update(layers=6, locals_per_global=2)
    config.model.text_encoder.update(layers=4, locals_per_global=0)
    transform = create_optimizer(config.optimizer, 1)
    params = jax.eval_shape(lambda: create_state(config, transform)).params
    factors = flatten(layer_decay_factors(params, 0.5))
    expected = layer_loop(config, 0.5)

    audio = "model/audio_encoder"
    for block in range(2):
        for place, name in enumerate(("local_0", "local_1", "global")):
            factor = factors[f"{audio}/transformer/blocks/layers/{name}/attention/query/kernel"]
            assert factor.shape == (2, 1, 1)
            assert factor[block, 0, 0] == pytest.approx(expected["audio_encoder"][1 + 3 * block + place])
            assert factors[f"{audio}/transformer/blocks/layers/{name}/mlp_norm/scale"].shape == (2, 1)
    text = factors["model/text_encoder/transformer/blocks/layers/global/mlp/down/kernel"]
    np.testing.assert_allclose(text[:, 0, 0], expected["text_encoder"][1:])
    assert factors[f"{audio}/patch_embedding/kernel"] == factors[f"{audio}/mask_token"] == expected["audio_encoder"][0]
    assert factors["model/text_encoder/embedding/table"] == expected["text_encoder"][0]
    above = [path for path, factor in factors.items() if np.ndim(factor) == 0 and factor == 1.0]
    assert f"{audio}/transformer/norm/scale" in above and "model/audio_pooling/probe" in above
    assert all(path in above for path in factors if path.startswith("objectives/"))


def test_layer_decay_scales_updates_and_multiplies_other_factors():
    config = tiny_config()
    config.optimizer.update(learning_rate=0.1, warmup_steps=0, schedule="constant", weight_decay=0.0, clip_norm=1e9)
    plain = create_optimizer(config.optimizer, 10)
    params = jax.jit(lambda: create_state(config, plain))().params["model"]["audio_encoder"]
    params = {"audio_encoder": params}
    gradients = jax.tree.map(jnp.ones_like, params)
    expected = plain.update(gradients, plain.init(params), params)[0]
    config.optimizer.layer_decay = 0.5
    config.optimizer.learning_rate_factors = (("global", 0.1),)
    both = create_optimizer(config.optimizer, 10)
    result = flatten(both.update(gradients, both.init(params), params)[0])
    for path, update in flatten(expected).items():
        own = flatten(layer_decay_factors(params, 0.5))[path] * (0.1 if "global" in path else 1.0)
        np.testing.assert_allclose(result[path], update * own, rtol=1e-5)


def test_a_layer_before_the_stack_is_the_lowest():
    layer = {"kernel": jnp.ones((3, 2))}
    blocks = {"blocks": {"layers": {"local_0": {"kernel": jnp.ones((2, 3, 2))}, "global": {"scale": jnp.ones((2, 3))}}}}
    tower = {"text_encoder": {"embedding": jnp.ones(4), "transformer": {"first": layer, "norm": jnp.ones(2), **blocks}}}
    factors = flatten(layer_decay_factors(tower, 0.1))  # five layers: first, local, global, local, global
    top = "text_encoder/transformer"
    assert factors["text_encoder/embedding"] == pytest.approx(1e-6)
    assert factors[f"{top}/first/kernel"] == pytest.approx(1e-5)
    np.testing.assert_allclose(factors[f"{top}/blocks/layers/local_0/kernel"][:, 0, 0], [1e-4, 1e-2], rtol=1e-5)
    np.testing.assert_allclose(factors[f"{top}/blocks/layers/global/scale"][:, 0], [1e-3, 1e-1], rtol=1e-5)
    assert factors[f"{top}/norm"] == 1.0


def test_layer_decay_without_an_encoder_is_an_error():
    with pytest.raises(ConfigError, match=r"layer_decay is 0.5, but there are no encoder layers"):
        layer_decay_factors({"head": jnp.ones(2)}, 0.5)


def test_frozen_parameters_have_no_gradient_and_no_part_in_its_norm():
    params = {"audio": jnp.ones(2), "text": jnp.ones(2)}

    def loss(params):
        params = stop_frozen(params, (("text", 0.0), ("audio", 0.5)))
        return jnp.sum(params["audio"] * params["text"] ** 2)

    gradients = jax.grad(loss)(params)
    np.testing.assert_array_equal(gradients["text"], 0.0)
    np.testing.assert_array_equal(gradients["audio"], 1.0)
    assert stop_frozen(params, (("text", 0.5),)) is params
