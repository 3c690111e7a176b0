"""Attention pooling of packed rows against plain multi-head attention on each slot alone."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from slap_jax.models.pooling import AttentionPooling

WIDTH, HEADS, SLOTS = 16, 2, 4
LENGTHS = [[9, 0, 5], [20]]  # slot 2 of row 0 is empty, as are slots 4 of row 0 and 2 to 4 of row 1


def setup(pack):
    pooling = AttentionPooling(WIDTH, HEADS, 24, dtype=jnp.float32, rngs=nnx.Rngs(0))
    segments, _ = pack(LENGTHS, 20)
    tokens = np.random.default_rng(0).standard_normal((2, 20, WIDTH)).astype(np.float32) * 3
    # A probe far from zero, so that the weights are far from equal.
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
