"""Attention pooling against multi-head attention on each slot alone; the mask token; packed captions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slap_jax.models.encoders import AttentionPooling, AudioEncoder, TextEncoder, token_segment_ids

pytestmark = pytest.mark.compile

WIDTH, HEADS, SLOTS = 16, 2, 4
LENGTHS = [[9, 0, 5], [20]]  # slot 2 of row 0 is empty, as are slots 4 of row 0 and 2 to 4 of row 1


def setup(pack):
    pooling = AttentionPooling(WIDTH, HEADS, 24, dtype=jnp.float32, rngs=nnx.Rngs(0))
    segments, _ = pack(LENGTHS, 20)
    tokens = np.random.default_rng(0).standard_normal((2, 20, WIDTH)).astype(np.float32) * 3
    # A probe far from zero gives attention weights that are far from uniform.
    pooling.probe[...] = jnp.asarray(np.random.default_rng(1).standard_normal(WIDTH) * 4, jnp.float32)
    return pooling, jnp.asarray(tokens), segments


def pool_alone(pooling: AttentionPooling, tokens: np.ndarray) -> np.ndarray:
    """`p = MHA(probe, z, z)`, then `p + MLP(norm(p))`, head by head."""
    kernels = {name: np.asarray(getattr(pooling, name).kernel[...], np.float64) for name in ("query", "key", "value")}
    query = (np.asarray(pooling.probe[...]) @ kernels["query"]).reshape(HEADS, -1)
    key, value = ((tokens @ kernels[name]).reshape(len(tokens), HEADS, -1) for name in ("key", "value"))
    heads = []
    for head in range(HEADS):
        scores = key[:, head] @ query[head] / np.sqrt(WIDTH / HEADS)
        weights = np.exp(scores - scores.max())
        heads.append(weights / weights.sum() @ value[:, head])
    pooled = np.concatenate(heads) @ np.asarray(pooling.out.kernel[...], np.float64)
    normed = pooled / np.sqrt((pooled**2).mean() + 1e-6)
    gate, up, down = (np.asarray(getattr(pooling.mlp, name).kernel[...], np.float64) for name in ("gate", "up", "down"))
    gated = normed @ gate
    return pooled + (gated / (1 + np.exp(-gated)) * (normed @ up)) @ down


def test_each_slot_equals_plain_attention_of_its_tokens(pack):
    pooling, tokens, segments = setup(pack)
    pooled = np.asarray(jax.jit(lambda x: pooling(x, segments, SLOTS))(tokens))
    for row in range(2):
        for slot in range(SLOTS):
            own = np.asarray(tokens[row][segments[row] == slot + 1], np.float64)
            expected = pool_alone(pooling, own) if len(own) else np.zeros(WIDTH)
            np.testing.assert_allclose(pooled[row, slot], expected, atol=1e-5)


def test_empty_slots_have_finite_gradients(pack):
    pooling, tokens, segments = setup(pack)
    graphdef, params = nnx.split(pooling)

    def loss(params, tokens):
        return jnp.sum(nnx.merge(graphdef, params)(tokens, segments, SLOTS))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, tokens)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not np.asarray(gradients[1])[segments == 0].any()


def test_scores_of_one_clip_do_not_swamp_another(pack):
    pooling, tokens, segments = setup(pack)
    louder = tokens * jnp.where(segments == 1, 1e4, 1.0)[..., None]
    plain, swamped = (np.asarray(pooling(x, segments, SLOTS)) for x in (tokens, louder))
    np.testing.assert_allclose(swamped[0, 2], plain[0, 2], atol=1e-5)


def test_no_tensor_holds_every_slot_and_token_at_full_width(pack):
    pooling, tokens, segments = setup(pack)
    jaxpr = jax.make_jaxpr(jax.grad(lambda x: pooling(x, segments, SLOTS).sum()))(tokens)
    sizes = [v.aval.size for eqn in jaxpr.jaxpr.eqns for v in eqn.outvars if hasattr(v.aval, "size")]
    assert max(sizes) < 2 * SLOTS * 20 * WIDTH


def test_token_segment_ids_repeat_each_column():
    np.testing.assert_array_equal(token_segment_ids(jnp.asarray([[1, 2, 0]]), 2), [[1, 1, 2, 2, 0, 0]])


def test_masked_patches_are_hidden_and_their_position_is_known(tiny_config, pack):
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
    # All hidden tokens of a clip start from the same vector and differ by position only.
    hidden = masked[0][mask[0] & (jnp.arange(32) >= 12)]
    assert min(float(jnp.abs(a - b).max()) for i, a in enumerate(hidden) for b in hidden[:i]) > 1e-3


def test_a_caption_does_not_depend_on_its_row(tiny_config, pack):
    encoder = TextEncoder(tiny_config.model, rngs=nnx.Rngs(0))
    tokens = np.random.default_rng(0).integers(3, 40, (2, 20))
    segments, positions = pack([[6, 9], [9]], 20)
    tokens[1, :9] = tokens[0, 6:15]
    out = encoder(jnp.asarray(tokens), segments, positions)
    assert out.shape == (2, 20, 8)
    np.testing.assert_allclose(out[0, 6:15], out[1, :9], atol=1e-5)
    assert np.abs(out[0, 6:15] - out[0, :9]).max() > 0.1


def test_local_layers_have_their_own_rope_base(tiny_config, pack):
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
