"""Rotary positions (Su et al. 2021): one axis for text, time and frequency for audio."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


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
