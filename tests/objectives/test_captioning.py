"""The chunked cross-entropy equals the plain one in values and gradients, on every mesh, and skips the padding."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from slap_jax.objectives import captioning
from slap_jax.objectives.captioning import next_tokens, token_losses
from slap_jax.parallel.sharding import batch_sharding, partition_spec

pytestmark = pytest.mark.compile

HIDDEN = jax.random.normal(jax.random.key(0), (2, 5, 8))
TABLE = jax.random.normal(jax.random.key(1), (37, 8))
TARGETS = jax.random.randint(jax.random.key(2), (2, 5), 0, 37)
EVERY = jnp.ones((2, 5), bool)


def plain(hidden, table):
    return -jnp.take_along_axis(jax.nn.log_softmax(hidden @ table.T), TARGETS[..., None], axis=-1)[..., 0]


def losses_and_gradients(losses, hidden=HIDDEN, table=TABLE):
    """Squares the losses, so that every token has a different cotangent."""
    gradients = jax.grad(lambda h, t: jnp.sum(losses(h, t) ** 2), argnums=(0, 1))(hidden, table)
    return losses(hidden, table), *gradients


def in_chunks(chunk: int, real=EVERY):
    return lambda hidden, table: token_losses(hidden, table, TARGETS, real, chunk)[0]


# One chunk or several of the vocabulary (37) and of the rows (2 of 5 tokens), with and without padding of the last.
@pytest.mark.parametrize(("chunk", "at_a_time"), [(10, 2), (10, 4), (10, 1_000), (1_000, 2), (1_000, 4), (37, 1_000)])
def test_loss_equals_the_plain_cross_entropy(monkeypatch, chunk, at_a_time):
    monkeypatch.setattr(captioning, "TOKENS_AT_A_TIME", at_a_time)
    _, correct = token_losses(HIDDEN, TABLE, TARGETS, EVERY, chunk)
    np.testing.assert_array_equal(correct, jnp.argmax(HIDDEN @ TABLE.T, axis=-1) == TARGETS)
    result, expected = losses_and_gradients(in_chunks(chunk)), losses_and_gradients(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), result, expected)


@pytest.mark.parametrize("at_a_time", [2, 1_000])
def test_padding_tokens_give_zeros_and_are_not_computed(monkeypatch, at_a_time):
    monkeypatch.setattr(captioning, "TOKENS_AT_A_TIME", at_a_time)
    real = jnp.array([[True, False, True, False, False], [True, False, False, False, False]])
    losses, correct = token_losses(HIDDEN, TABLE, TARGETS, real, 10)
    np.testing.assert_array_equal(losses == 0, ~real)
    assert not np.any(correct & ~real)
    expected = losses_and_gradients(lambda hidden, table: jnp.where(real, plain(hidden, table), 0.0))
    result = losses_and_gradients(in_chunks(10, real))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), result, expected)
    if at_a_time == 2:
        spoilt = losses_and_gradients(in_chunks(10, real), HIDDEN.at[:, 3:].set(jnp.nan))
        jax.tree.map(np.testing.assert_array_equal, spoilt, result)


def test_a_batch_of_padding_gives_zeros_and_no_nan(monkeypatch):
    monkeypatch.setattr(captioning, "TOKENS_AT_A_TIME", 2)
    for value in losses_and_gradients(in_chunks(10, jnp.zeros((2, 5), bool))):
        np.testing.assert_array_equal(value, 0.0)


def test_gradient_of_the_table_is_accumulated_in_fp32():
    """Accumulated in bf16, a sum of 300 equal terms would stop growing at 256."""
    count = 300
    hidden = jnp.ones((1, count, 4), jnp.bfloat16)
    table = jnp.zeros((2, 4), jnp.float32)
    zeros, every = jnp.zeros((1, count), jnp.int32), jnp.ones((1, count), bool)
    gradient = jax.grad(lambda table: jnp.sum(token_losses(hidden, table, zeros, every, 2)[0]))(table)
    assert gradient.dtype == jnp.float32
    np.testing.assert_allclose(gradient, [[-count / 2] * 4, [count / 2] * 4], rtol=1e-6)


@pytest.mark.parametrize(("sizes", "words"), [((8, 1, 1), 38), ((2, 2, 2), 37), ((2, 2, 2), 38), ((1, 1, 8), 40)])
def test_loss_is_the_same_on_every_mesh_and_sends_no_rows(monkeypatch, mesh_of, sizes, words):
    """37 words cannot be sharded over two `tensor` devices."""
    monkeypatch.setattr(captioning, "TOKENS_AT_A_TIME", 2)
    mesh = mesh_of(*sizes)
    hidden, table = jax.random.normal(jax.random.key(3), (8, 20, 8)), jax.random.normal(jax.random.key(4), (words, 8))
    targets = jax.random.randint(jax.random.key(5), (8, 20), 0, words)
    real = jnp.arange(20) < jnp.arange(8, 16)[:, None]

    def value(hidden, table, targets, real):
        losses, correct = token_losses(hidden, table, targets, real, 10)
        return jnp.sum(losses**2), correct

    expected = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(hidden, table, targets, real)
    with jax.set_mesh(mesh):
        rows = batch_sharding(mesh)
        placed = [jax.device_put(x, rows) for x in (hidden, targets, real)]
        table = jax.device_put(table, NamedSharding(mesh, partition_spec("/embedding/table", table.shape, mesh.shape)))
        step = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))
        program = step.lower(placed[0], table, *placed[1:]).compile()
        ours = program(placed[0], table, *placed[1:])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), jax.device_get(ours), expected)
    text = program.as_text()
    assert text is not None
    sent = re.findall(r"= (.*?) (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(", text)
    assert sent
    local_rows = 8 // (sizes[0] * sizes[1])
    largest = max(
        np.prod([int(n) for n in dims.split(",") if n]) for x in sent for dims in re.findall(r"\[([\d,]*)\]", x)
    )
    assert largest <= max(words * 8, local_rows * 20 * 8)  # the table, or one device's rows summed over `tensor`


def test_targets_are_the_next_token_of_the_same_caption():
    tokens = jnp.array([[1, 7, 2, 1, 8, 9, 2, 0]])
    segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]])
    targets, real = next_tokens(tokens, segments)
    np.testing.assert_array_equal(real[0], [True, True, False, True, True, True, False, False])
    np.testing.assert_array_equal(targets[0][real[0]], [7, 2, 8, 9, 2])
    _, full = next_tokens(jnp.array([[1, 5, 2]]), jnp.array([[1, 1, 1]]))
    assert not full[0, -1]  # the row's end does not wrap to its start
