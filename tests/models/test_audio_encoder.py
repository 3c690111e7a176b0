"""The audio tower: the mask token, and tokens in the order of the design."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from slap_jax.models.audio_encoder import AudioEncoder, token_segments


def test_token_segments_repeat_each_column():
    np.testing.assert_array_equal(token_segments(jnp.asarray([[1, 2, 0]]), 2), [[1, 1, 2, 2, 0, 0]])


def test_masked_patches_are_hidden_and_their_place_is_known(tiny_config, pack):
    encoder = AudioEncoder(tiny_config.model, tiny_config.audio, rngs=nnx.Rngs(0))
    segments, columns = pack([[3, 5], [8]], 8)
    rng = np.random.default_rng(0)
    patches = jnp.asarray(rng.standard_normal((2, 32, 256)), jnp.float32)
    mask = jnp.asarray(rng.random((2, 32)) < 0.5)
    encode = jax.jit(lambda patches, mask: encoder(patches, segments, columns, mask))
    masked = encode(patches, mask)
    assert masked.shape == (2, 32, 16)
    hidden_changed = jnp.where(mask[..., None], 7.0, patches)
    np.testing.assert_array_equal(masked, encode(hidden_changed, mask))
    seen_changed = jnp.where(mask[..., None], patches, patches + 1.0)
    assert np.abs(masked - encode(seen_changed, mask)).max() > 1e-2
    np.testing.assert_allclose(encode(patches, jnp.zeros_like(mask)), encoder(patches, segments, columns), atol=1e-5)
    # Hidden tokens of one clip all start from the same vector: what they become tells their places apart.
    hidden = masked[0][mask[0] & (jnp.arange(32) >= 12)]
    assert min(float(jnp.abs(a - b).max()) for i, a in enumerate(hidden) for b in hidden[:i]) > 1e-3
