"""The layers of every tower: linear map, norms, gated MLP, token embedding and rotary positions.

All initialisation is here:
    matrices: truncated normal of variance 1 / fan-in, so that inputs of unit variance give outputs of unit variance;
    matrices that write to the residual stream (`out`, `down`): the same divided by sqrt(branches), where branches is
        the number of residual additions in the tower (2 per layer, 3 with cross-attention), so that the variance of
        the stream does not grow with depth (GPT-2, Radford et al. 2019);
    token embeddings of an encoder: variance 1;
    token embeddings tied to output logits: variance 1 / width, which gives logits of unit variance and keeps the input
        small in the stream; otherwise an untrained decoder would repeat its input with certainty;
    norm scales: 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from slap_jax.parallel.sharding import constrain, target_platform


def truncated_normal(key: jax.Array, shape: tuple[int, ...], variance: float) -> Array:
    """Samples fp32 values of the given variance, truncated at two standard deviations."""
    # 0.8796 is the standard deviation of a unit normal truncated at +-2.
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32) * (variance**0.5 / 0.87962566)


def matrix_product(x: Float[Array, "*batch inputs"], matrix: Float[Array, "inputs outputs"]) -> Array:
    """Returns `x @ matrix` in their dtype, as a product of two matrices.

    The gradient of the matrix then contracts one axis; over two, XLA's CPU backend takes twice as long.
    """
    inputs, outputs = matrix.shape
    product = _tall_product if target_platform() == "cpu" and inputs > outputs else jnp.matmul
    return product(x.reshape(-1, inputs), matrix).reshape(*x.shape[:-1], outputs)


@jax.custom_vjp
def _tall_product(x: Float[Array, "n inputs"], matrix: Float[Array, "inputs outputs"]) -> Float[Array, "n outputs"]:
    """`x @ matrix` for more inputs than outputs; the gradient of the matrix is the transpose of a wide product.

    XLA's CPU backend (0.10) computes [1024, n] x [n, 384] at three quarters of the speed of [384, n] x [n, 1024].
    """
    return x @ matrix


def _tall_product_forward(x: Array, matrix: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ matrix, (x, matrix)


def _tall_product_backward(residuals: tuple[Array, Array], d_out: Array) -> tuple[Array, Array]:
    x, matrix = residuals
    # Without the barrier XLA transposes the product back.
    return d_out @ matrix.T, jax.lax.optimization_barrier(d_out.T @ x).T


_tall_product.defvjp(_tall_product_forward, _tall_product_backward)


class Linear(nnx.Module):
    """A linear map without bias: fp32 parameters, computed in `dtype`."""

    def __init__(self, inputs: int, outputs: int, *, scale: float = 1.0, dtype: DTypeLike, rngs: nnx.Rngs):
        """Creates a map from `inputs` to `outputs`; `scale` is a factor on the initial standard deviation."""
        self.kernel = nnx.Param(truncated_normal(rngs.params(), (inputs, outputs), scale**2 / inputs))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        return matrix_product(x.astype(self.dtype), self.kernel[...].astype(self.dtype))


class RMSNorm(nnx.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019), with statistics in fp32.

    y = scale * x / sqrt(mean(x^2) + epsilon)
    """

    def __init__(self, width: int, *, dtype: DTypeLike, epsilon: float = 1e-6):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.dtype = jnp.dtype(dtype)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        x = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return (x * inverse * self.scale[...]).astype(self.dtype)


class LayerNorm(nnx.Module):
    """Layer norm (Ba et al. 2016) without bias, with statistics in fp32.

    y = scale * (x - mean(x)) / sqrt(variance(x) + epsilon)
    """

    def __init__(self, width: int, *, dtype: DTypeLike, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.dtype = jnp.dtype(dtype)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return (x * inverse * self.scale[...]).astype(self.dtype)


def identity(x: Array) -> Array:
    """Returns x; replaces the norm in a layer without one."""
    return x


def gelu(x: Array) -> Array:
    """The exact GELU (Hendrycks and Gimpel 2016), x Phi(x)."""
    return jax.nn.gelu(x, approximate=False)


class GatedMLP(nnx.Module):
    """Gated MLP without biases: SwiGLU with SiLU, GeGLU with GELU (Shazeer 2020).

    y = (activation(x W_gate) * (x W_up)) W_down
    """

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
        """Creates the MLP; `out_scale` is a factor on the initial standard deviation of `down`."""
        self.activation = activation
        self.gate = Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.up = Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.down = Linear(hidden, width, scale=out_scale, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Embedding(nnx.Module):
    """Token embeddings, and the output logits of a decoder that ties them."""

    def __init__(self, vocabulary: int, width: int, *, tied: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        """Creates the table [vocabulary, width]; `tied` says that `logits` will be used."""
        variance = 1.0 / width if tied else 1.0
        self.table = nnx.Param(truncated_normal(rngs.params(), (vocabulary, width), variance))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch width"]:
        # Gathers a table sharded over fsdp; XLA would send the embeddings of all tokens instead.
        table = constrain(self.table[...], PartitionSpec())
        return jnp.take(table, tokens, axis=0).astype(self.dtype)

    def logits(self, hidden: Float[Array, "*batch width"]) -> Float[Array, "*batch vocabulary"]:
        """Returns fp32 logits over the vocabulary, `hidden table^T`."""
        table = self.table[...].astype(self.dtype)
        flat = hidden.reshape(-1, hidden.shape[-1]).astype(self.dtype)  # see `matrix_product`
        return jnp.matmul(flat, table.T, preferred_element_type=jnp.float32).reshape(*hidden.shape[:-1], -1)


class Rotation(NamedTuple):
    """Cosines and sines of rotary position embedding (Su et al. 2021), fp32, for the d/2 pairs of each token."""

    cosine: Float[Array, "R N half"]
    sine: Float[Array, "R N half"]


def _angles(positions: Int[Array, "R N"], pairs: int, base: float) -> Float[Array, "R N pairs"]:
    frequencies = (base ** (-np.arange(pairs) / pairs)).astype(np.float32)
    return positions[..., None].astype(jnp.float32) * frequencies


def rotation_1d(positions: Int[Array, "R N"], head_dim: int, base: float) -> Rotation:
    """Returns the tables of a sequence, in which pair r is rotated by `position * base^(-2 r / head_dim)`.

    Args:
        positions: index of each token in its clip or caption.
        head_dim: size of an attention head, a multiple of 2.
        base: base of the geometric series of frequencies.
    """
    angles = _angles(positions, head_dim // 2, base)
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotation_2d(
    positions: Int[Array, "R C"], freq_patches: int, head_dim: int, base_time: float, base_frequency: float
) -> Rotation:
    """Returns the tables of audio tokens, in which half of the pairs rotate with time and half with frequency.

    Pair r < d/4 is rotated by `position * base_time^(-4 r / d)` and pair d/4 + r by `f * base_frequency^(-4 r / d)`,
    where f is the frequency patch of token `column * F + f` (paper equation 11).

    Args:
        positions: index of each column in its clip.
        freq_patches: F, tokens in a column.
        head_dim: d, size of an attention head, a multiple of 4.
        base_time: base of the time axis, 10,000 by default.
        base_frequency: base of the frequency axis, 100 by default: over four positions a larger base hardly rotates
            most pairs.
    """
    quarter = head_dim // 4
    rows, columns = positions.shape
    time = _angles(positions, quarter, base_time)[:, :, None]
    frequency = _angles(jnp.arange(freq_patches)[None], quarter, base_frequency)[:, None]
    shape = (rows, columns, freq_patches, quarter)
    angles = jnp.concatenate([jnp.broadcast_to(time, shape), jnp.broadcast_to(frequency, shape)], axis=-1)
    angles = angles.reshape(rows, columns * freq_patches, 2 * quarter)
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "R N H d"], rotation: Rotation) -> Float[Array, "R N H d"]:
    """Rotates queries or keys by their positions, in fp32; returns the dtype of x.

    Element r of a head and element r + d/2 form pair r, which is rotated by the angle a:

        (x_r, x_{r + d/2}) -> (x_r cos a - x_{r + d/2} sin a, x_{r + d/2} cos a + x_r sin a)
    """
    cosine, sine = rotation.cosine[:, :, None], rotation.sine[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return rotated.astype(x.dtype)
