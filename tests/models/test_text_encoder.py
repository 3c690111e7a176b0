"""The text tower on packed captions."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from slap_jax.models.text_encoder import TextEncoder


def test_a_caption_does_not_depend_on_its_neighbours_or_its_place(tiny_config, pack):
    encoder = TextEncoder(tiny_config.model, rngs=nnx.Rngs(0))
    tokens = np.random.default_rng(0).integers(3, 40, (2, 20))
    segments, positions = pack([[6, 9], [9]], 20)
    tokens[1, :9] = tokens[0, 6:15]
    out = encoder(jnp.asarray(tokens), segments, positions)
    assert out.shape == (2, 20, 8)
    np.testing.assert_allclose(out[0, 6:15], out[1, :9], atol=1e-5)
    assert np.abs(out[0, 6:15] - out[0, :9]).max() > 0.1


def test_local_layers_turn_by_their_own_base(tiny_config, pack):
    tiny_config.model.text_encoder.update(layers=2, locals_per_global=1, local_window=3)
    segments, positions = pack([[12]], 12)
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 40, (1, 12)))

    def features(base, local):
        tiny_config.model.text_encoder.update(rope_base=base, rope_base_local=local)
        return np.asarray(TextEncoder(tiny_config.model, rngs=nnx.Rngs(0))(tokens, segments, positions))

    same = features(10_000.0, None)
    np.testing.assert_array_equal(same, features(10_000.0, 10_000.0))
    for base, local in ((10_000.0, 10.0), (10.0, 10_000.0)):
        assert np.abs(same - features(base, local)).max() > 1e-3
