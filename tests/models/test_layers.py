"""The matrix product against NumPy; rotary positions against complex numbers, and that they are relative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.models.layers import Rotation, matrix_product, rotate, rotation_1d, rotation_2d
from slap_jax.parallel.sharding import compiling_for

pytestmark = pytest.mark.compile


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("inputs, outputs", [(6, 4), (4, 6), (5, 5)])
def test_matrix_product_and_its_gradients_are_numpys(platform, inputs, outputs):
    generator = np.random.default_rng(0)
    x, matrix, gradient = (
        generator.standard_normal(shape).astype(np.float32)
        for shape in ((2, 3, inputs), (inputs, outputs), (2, 3, outputs))
    )
    with compiling_for(platform):
        result, backward = jax.vjp(matrix_product, x, matrix)
    d_x, d_matrix = backward(gradient)
    np.testing.assert_allclose(result, x @ matrix, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(d_x, gradient @ matrix.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(d_matrix, np.einsum("rni,rno->io", x, gradient), rtol=1e-5, atol=1e-6)


def rotate_oracle(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    half = x.shape[-1] // 2
    rotated = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, :, None]
    return np.concatenate([rotated.real, rotated.imag], axis=-1)


def test_one_axis_equals_complex_rotation():
    x = np.random.default_rng(0).standard_normal((2, 5, 3, 8)).astype(np.float32)
    positions = np.array([[0, 1, 2, 0, 1], [0, 7, 70, 700, 3]])
    angles = positions[..., None] * 10_000.0 ** (-2 * np.arange(4) / 8)
    result = rotate(jnp.asarray(x), rotation_1d(jnp.asarray(positions), 8, 10_000.0))
    np.testing.assert_allclose(result, rotate_oracle(x, angles), atol=1e-4)


def test_two_axes_give_half_of_the_dimensions_to_each():
    x = np.random.default_rng(0).standard_normal((1, 12, 2, 8)).astype(np.float32)
    columns = np.array([[0, 1, 5]])
    column, patch = np.repeat(columns, 4, axis=1), np.tile(np.arange(4), 3)[None]
    time = column[..., None] * 10_000.0 ** (-2 * np.arange(2) / 4)
    frequency = patch[..., None] * 100.0 ** (-2 * np.arange(2) / 4)
    result = rotate(jnp.asarray(x), rotation_2d(jnp.asarray(columns), 4, 8, 10_000.0, 100.0))
    np.testing.assert_allclose(result, rotate_oracle(x, np.concatenate([time, frequency], -1)), atol=1e-5)


def test_dot_products_depend_on_relative_positions_only():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((1, 4, 1, 8)), jnp.float32) for _ in range(2))

    def products(shift: int) -> np.ndarray:
        rotation = rotation_2d(jnp.asarray([[shift]]), 4, 8, 10_000.0, 100.0)
        return np.einsum("rqhd,rkhd->rqk", rotate(q, rotation), rotate(k, rotation))

    np.testing.assert_allclose(products(3), products(40), atol=1e-5)


def test_rotation_keeps_the_input_dtype():
    rotation = rotation_1d(jnp.zeros((1, 2), jnp.int32), 4, 100.0)
    assert isinstance(rotation, Rotation) and rotation.cosine.dtype == jnp.float32
    assert rotate(jnp.ones((1, 2, 1, 4), jnp.bfloat16), rotation).dtype == jnp.bfloat16
