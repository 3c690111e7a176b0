import jax
import numpy as np
import pytest

from slap_jax.models.layers import matrix_product
from slap_jax.parallel.platform import compiling_for


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
