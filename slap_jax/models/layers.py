"""The smallest parts of every tower: linear map, norms, gated MLP and token embedding, and how they start.

Initialisation, in one place:
    matrices: truncated normal, variance 1 / fan-in, so that unit-variance inputs give unit-variance outputs;
    matrices that write to the residual stream (`out`, `down`): the same divided by sqrt(branches), where branches is
        the number of residual additions of the tower (2 a layer, 3 with cross-attention), so that the stream's
        variance does not grow with depth (GPT-2, Radford et al. 2019);
    token embeddings: variance 1 of an encoder's; 1 / width where output logits are tied to them, which gives logits of
        unit variance and keeps the input small in the stream, else a new decoder would repeat its input with certainty;
    norm scales: one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from slap_jax.parallel.per_device import constrain
from slap_jax.parallel.platform import target_platform


def truncated_normal(key: jax.Array, shape: tuple[int, ...], variance: float) -> Array:
    """Draws fp32 values of the given variance, cut at two standard deviations."""
    # 0.8796 is the standard deviation of a unit normal cut at +-2.
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32) * (variance**0.5 / 0.87962566)


def matrix_product(x: Float[Array, "*batch inputs"], matrix: Float[Array, "inputs outputs"]) -> Array:
    """Returns `x @ matrix` in their type, computed as one product of two matrices.

    The gradient of the matrix then contracts one axis: XLA's CPU backend is twice as slow over two.
    """
    inputs, outputs = matrix.shape
    product = _tall_product if target_platform() == "cpu" and inputs > outputs else jnp.matmul
    return product(x.reshape(-1, inputs), matrix).reshape(*x.shape[:-1], outputs)


@jax.custom_vjp
def _tall_product(x: Float[Array, "n inputs"], matrix: Float[Array, "inputs outputs"]) -> Float[Array, "n outputs"]:
    """`x @ matrix` for more inputs than outputs, whose matrix gets its gradient as the transpose of a wide product.

    XLA's CPU backend (0.10) computes [1024, n] x [n, 384] at three quarters of the speed of [384, n] x [n, 1024].
    """
    return x @ matrix


def _tall_product_forward(x: Array, matrix: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ matrix, (x, matrix)


def _tall_product_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, matrix = saved
    # Without the barrier XLA turns the product round again.
    return gradient @ matrix.T, jax.lax.optimization_barrier(gradient.T @ x).T


_tall_product.defvjp(_tall_product_forward, _tall_product_backward)


class Linear(nnx.Module):
    """A matrix product without bias: fp32 parameters, computed in `dtype`."""

    def __init__(self, inputs: int, outputs: int, *, scale: float = 1.0, dtype: DTypeLike, rngs: nnx.Rngs):
        """Creates the map.

        Args:
            inputs: size of the last axis of the input.
            outputs: size of the last axis of the output.
            scale: factor on the initial standard deviation.
            dtype: of the computation and the output.
            rngs: source of the initial values.
        """
        self.kernel = nnx.Param(truncated_normal(rngs.params(), (inputs, outputs), scale**2 / inputs))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Returns `x @ kernel`."""
        return matrix_product(x.astype(self.dtype), self.kernel[...].astype(self.dtype))


class RMSNorm(nnx.Module):
    """Root-mean-square norm with a learned scale (Zhang and Sennrich 2019); statistics in fp32."""

    def __init__(self, width: int, *, dtype: DTypeLike, epsilon: float = 1e-6):
        """Creates the norm over a last axis of `width`."""
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.dtype = jnp.dtype(dtype)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Returns `scale * x / sqrt(mean(x^2) + epsilon)`."""
        x = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return (x * inverse * self.scale[...]).astype(self.dtype)


class LayerNorm(nnx.Module):
    """Layer norm (Ba et al. 2016) with a learned scale and no bias; statistics in fp32."""

    def __init__(self, width: int, *, dtype: DTypeLike, epsilon: float = 1e-5):
        """Creates the norm over a last axis of `width`."""
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.dtype = jnp.dtype(dtype)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Returns `scale * (x - mean(x)) / sqrt(variance(x) + epsilon)`."""
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return (x * inverse * self.scale[...]).astype(self.dtype)


def unchanged(x: Array) -> Array:
    """Stands where a layer has no norm."""
    return x


def gelu(x: Array) -> Array:
    """The exact GELU (Hendrycks and Gimpel 2016), by the error function."""
    return jax.nn.gelu(x, approximate=False)


class GatedMLP(nnx.Module):
    """`down(activation(gate(x)) * up(x))`, without biases: SwiGLU with SiLU, GeGLU with GELU (Shazeer 2020)."""

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        out_scale: float,
        activation: Callable[[Array], Array] = jax.nn.silu,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Creates the MLP; `out_scale` is the factor on the initial standard deviation of `down`."""
        self.activation = activation
        self.gate = Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.up = Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.down = Linear(hidden, width, scale=out_scale, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Returns a vector for each input vector."""
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Embedding(nnx.Module):
    """Token vectors, and the output logits of a decoder that ties them."""

    def __init__(self, vocabulary: int, width: int, *, tied: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        """Creates one vector of `width` for each of `vocabulary` tokens; `tied` if `logits` will be used."""
        variance = 1.0 / width if tied else 1.0
        self.table = nnx.Param(truncated_normal(rngs.params(), (vocabulary, width), variance))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch width"]:
        """Looks the tokens up."""
        # A table that fsdp keeps in pieces is gathered: XLA would send the vectors of all tokens instead.
        table = constrain(self.table[...], PartitionSpec())
        return jnp.take(table, tokens, axis=0).astype(self.dtype)

    def logits(self, hidden: Float[Array, "*batch width"]) -> Float[Array, "*batch vocabulary"]:
        """Returns fp32 scores of every token."""
        table = self.table[...].astype(self.dtype)
        flat = hidden.reshape(-1, hidden.shape[-1]).astype(self.dtype)  # see `matrix_product`
        return jnp.matmul(flat, table.T, preferred_element_type=jnp.float32).reshape(*hidden.shape[:-1], -1)
