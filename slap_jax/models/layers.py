"""The smallest parts of every tower: linear map, norms, gated MLP and token embedding, and how they start.

Initialisation, in one place:
    matrices: truncated normal, variance 1 / fan-in, so that unit-variance inputs give unit-variance outputs;
    matrices that write to the residual stream (`out`, `down`): the same divided by sqrt(branches), where branches is
        the number of residual additions of the tower (2 a layer, 3 with cross-attention), so that the stream's
        variance does not grow with depth (GPT-2, Radford et al. 2019);
    token embeddings: variance 1 of an encoder's; 1 / width where output logits are tied to them, which gives logits of
        unit variance and keeps the input small in the stream, else a new decoder would repeat its input with certainty;
    norm scales: one.

Rotary positions (Su et al. 2021): one axis for text, time and frequency for audio.
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


class Rotation(NamedTuple):
    """Cosine and sine of every rotated pair's angle, one row for each token; fp32.

    Element i of a head is paired with element i + d/2, so the tables hold d/2 angles.
    """

    cosine: Float[Array, "R N half"]
    sine: Float[Array, "R N half"]


def _angles(positions: Int[Array, "R N"], pairs: int, base: float) -> Float[Array, "R N pairs"]:
    frequencies = (base ** (-np.arange(pairs) / pairs)).astype(np.float32)
    return positions[..., None].astype(jnp.float32) * frequencies


def rotation_1d(positions: Int[Array, "R N"], head_dim: int, base: float) -> Rotation:
    """Returns the tables of a sequence: pair r turns by `position * base**(-2 r / head_dim)`.

    Args:
        positions: index of each token inside its clip or caption.
        head_dim: size of an attention head, a multiple of 2.
        base: of the geometric series of frequencies.
    """
    angles = _angles(positions, head_dim // 2, base)
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotation_2d(
    columns: Int[Array, "R C"], patches: int, head_dim: int, base_time: float, base_frequency: float
) -> Rotation:
    """Returns the tables of audio tokens: half of the dimensions turn with time, half with frequency.

    Args:
        columns: index of each column inside its clip.
        patches: F, tokens in a column; token `column * F + f` has frequency position f.
        head_dim: size of an attention head, a multiple of 4.
        base_time: base of the time axis (10,000 in the model; paper equation 11).
        base_frequency: base of the frequency axis (100: over four positions a larger one hardly turns most pairs).
    """
    quarter = head_dim // 4
    rows, count = columns.shape
    time = _angles(columns, quarter, base_time)[:, :, None]
    frequency = _angles(jnp.arange(patches)[None], quarter, base_frequency)[:, None]
    shape = (rows, count, patches, quarter)
    angles = jnp.concatenate([jnp.broadcast_to(time, shape), jnp.broadcast_to(frequency, shape)], axis=-1)
    angles = angles.reshape(rows, count * patches, 2 * quarter)
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "R N H d"], rotation: Rotation) -> Float[Array, "R N H d"]:
    """Turns queries or keys by their positions; computed in fp32, returned in the type of x."""
    cosine, sine = rotation.cosine[:, :, None], rotation.sine[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x.dtype)
