"""The chunked cross-entropy equals the plain one, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.objectives.captioning import next_tokens
from slap_jax.objectives.vocabulary import token_losses

HIDDEN = jax.random.normal(jax.random.key(0), (2, 5, 8))
TABLE = jax.random.normal(jax.random.key(1), (37, 8))
TARGETS = jax.random.randint(jax.random.key(2), (2, 5), 0, 37)


def plain(hidden, table):
    return -jnp.take_along_axis(jax.nn.log_softmax(hidden @ table.T), TARGETS[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize("chunk", [5, 10, 37, 1_000])
def test_equals_the_plain_cross_entropy(chunk):
    losses, correct = token_losses(HIDDEN, TABLE, TARGETS, chunk)
    np.testing.assert_allclose(losses, plain(HIDDEN, TABLE), rtol=1e-5)
    np.testing.assert_array_equal(correct, jnp.argmax(HIDDEN @ TABLE.T, axis=-1) == TARGETS)
    ours = jax.grad(lambda h, t: jnp.sum(token_losses(h, t, TARGETS, chunk)[0] ** 2), argnums=(0, 1))(HIDDEN, TABLE)
    theirs = jax.grad(lambda h, t: jnp.sum(plain(h, t) ** 2), argnums=(0, 1))(HIDDEN, TABLE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, theirs)


def test_targets_are_the_next_token_of_the_same_caption():
    tokens = jnp.array([[1, 7, 2, 1, 8, 9, 2, 0]])
    segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]])
    targets, real = next_tokens(tokens, segments)
    np.testing.assert_array_equal(real[0], [True, True, False, True, True, True, False, False])
    np.testing.assert_array_equal(targets[0][real[0]], [7, 2, 8, 9, 2])
    _, full = next_tokens(jnp.array([[1, 5, 2]]), jnp.array([[1, 1, 1]]))
    assert not full[0, -1]  # the row's end does not wrap to its start
