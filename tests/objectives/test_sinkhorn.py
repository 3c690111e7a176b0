"""Sinkhorn-Knopp in parts against a NumPy version of all scores: values, invariances, meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from slap_jax.objectives.sinkhorn import balance
from slap_jax.parallel.mesh import batch_sharding, create_mesh


def numpy_sinkhorn(scores: np.ndarray, temperature: float, iterations: int) -> np.ndarray:
    """Equation 5 of the method, tokens as columns, in float64."""
    q = np.exp((scores.astype(np.float64) - scores.max()) / temperature).T
    prototypes, tokens = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * prototypes
        q /= q.sum(axis=0, keepdims=True) * tokens
    return (q * tokens).T


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def scores_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def assign(scores: np.ndarray, valid: np.ndarray, temperature: float, iterations: int, chunk: int = 0) -> np.ndarray:
    """The assignment [R, M, P] of given scores: the products of themselves with the unit matrix."""
    prototypes = jnp.eye(scores.shape[-1])
    potentials, _ = balance(jnp.asarray(scores), prototypes, jnp.asarray(valid), temperature, iterations, chunk)
    return softmax(scores / temperature - np.asarray(potentials))


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("chunk", [0, 1, 3, 10, 64])
def test_equals_numpy(iterations, chunk):
    scores = scores_of((4, 10, 16))
    ours = assign(scores, np.ones((4, 10), bool), 0.05, iterations, chunk)
    expected = numpy_sinkhorn(scores.reshape(40, 16), 0.05, iterations)
    np.testing.assert_allclose(ours.reshape(40, 16), expected, atol=1e-6)


@pytest.mark.parametrize("chunk", [0, 4])
def test_padding_takes_no_part(chunk):
    scores = scores_of((3, 10, 16))
    valid = np.arange(30).reshape(3, 10) % 3 != 0
    scores[~valid] = 1e3  # beyond what any token has
    ours = assign(scores, valid, 0.05, 3, chunk)
    np.testing.assert_allclose(ours[valid], numpy_sinkhorn(scores[valid], 0.05, 3), atol=1e-6)


def test_places_after_the_last_valid_one_are_not_computed():
    scores = scores_of((2, 12, 16))
    valid = np.broadcast_to(np.arange(12) < 5, (2, 12))
    scores[:, 6:] = np.nan  # a product with them would spoil every sum
    ours = assign(scores, valid, 0.05, 3, chunk=3)
    np.testing.assert_allclose(ours[valid], numpy_sinkhorn(scores[valid], 0.05, 3), atol=1e-6)


def test_assignments_are_balanced_over_the_prototypes():
    assignment = assign(scores_of((1, 64, 8)), np.ones((1, 64), bool), 0.05, 10)[0]
    np.testing.assert_allclose(assignment.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(assignment.sum(axis=0), 8.0, rtol=0.05)


@pytest.mark.parametrize("chunk", [0, 2])
def test_nothing_valid_gives_no_nan(chunk):
    potentials, use = balance(jnp.asarray(scores_of((1, 5, 8))), jnp.eye(8), jnp.zeros((1, 5), bool), 0.05, 3, chunk)
    assert np.all(np.isfinite(potentials))
    np.testing.assert_array_equal(np.stack(use), 0.0)


def test_use_of_the_prototypes_is_that_before_balancing():
    scores = scores_of((3, 10, 16))
    valid = np.arange(30).reshape(3, 10) % 4 != 0
    scores[1, 2, 3] = scores[1, 2, 9] = 2.0  # of equal scores the first is chosen
    _, use = balance(jnp.asarray(scores), jnp.eye(16), jnp.asarray(valid), 0.05, 3, 4)
    np.testing.assert_allclose(use.mean, softmax(scores[valid] / 0.05).mean(axis=0), atol=1e-6)
    chosen = np.bincount(scores[valid].argmax(axis=-1), minlength=16) / valid.sum()
    np.testing.assert_allclose(use.chosen, chosen, atol=1e-7)


@pytest.mark.parametrize(("sizes", "prototypes"), [((8, 1, 1), 16), ((2, 2, 2), 16), ((2, 2, 2), 15)])
def test_is_the_same_on_every_mesh(sizes, prototypes):
    """15 prototypes cannot be split over two `tensor` ways."""
    mesh = create_mesh(ConfigDict(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))))
    generator = np.random.default_rng(1)
    units = generator.standard_normal((8, 6, 4)).astype(np.float32)
    units[0, 0] = 0.0  # equal scores everywhere
    units = jnp.asarray(units)
    vectors = jnp.asarray(generator.standard_normal((4, prototypes)), jnp.float32)
    valid = jnp.asarray(generator.uniform(size=(8, 6)) < 0.7)
    expected = balance(units, vectors, valid, 0.5, 3, 4)
    with jax.set_mesh(mesh):
        placed = jax.device_put((units, valid), batch_sharding(mesh))
        ours = jax.jit(lambda units, valid: balance(units, vectors, valid, 0.5, 3, 4))(*placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), ours, expected)
