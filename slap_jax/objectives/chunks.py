"""Loops over parts of each row, on the device that holds the rows: memory of one part, and none spent on empty ends.

A part is a range of places of every row, not a range of rows: rows are spread over devices, so a loop over them would
leave all but one device waiting. The functions here run inside `shard_map_if_mesh`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from slap_jax.parallel.sharding import axis_size


def even_size(total: int, most: int) -> int:
    """Returns the size of parts that are as even as can be, each at most `most`; 0 is one part."""
    count = -(-total // min(most or total, total))
    return -(-total // count)


def used_parts(counted: Bool[Array, "R N"], size: int) -> Int[Array, ""]:
    """Returns how many parts of `size` places reach the last place that counts in any row."""
    places = jnp.arange(1, counted.shape[1] + 1)
    return -(-jnp.max(jnp.where(counted, places, 0)) // size)


def padded(x: Shaped[Array, "R N ..."], size: int) -> Shaped[Array, "R M ..."]:
    """Pads the places with zeros to a multiple of `size`."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), *[(0, 0)] * (x.ndim - 2)))


def part(x: Shaped[Array, "R M ..."], index: Array | int, size: int) -> Shaped[Array, "n ..."]:
    """Returns one part of all rows, rows and places merged: n = R * size."""
    return jax.lax.dynamic_slice_in_dim(x, index * size, size, axis=1).reshape(-1, *x.shape[2:])


def put_part(x: Shaped[Array, "R M ..."], values: Shaped[Array, "n ..."], index: Array | int, size: int) -> Array:
    """Writes what `part` would read."""
    values = values.reshape(x.shape[0], size, *x.shape[2:])
    return jax.lax.dynamic_update_slice_in_dim(x, values.astype(x.dtype), index * size, axis=1)


def over_parts(body: Callable[[Any, Any], Any], start: Any, used: Array, places: int, size: int) -> Any:
    """Returns `start` after `carry = body(index, carry)` for each part in use.

    A single part is computed without a loop, so that the compiler sees what two loops compute alike and does it once.
    """
    if places <= size:
        return body(0, start)
    return jax.lax.fori_loop(0, used, body, start)


def split_axes(size: int, axis: str = "tensor") -> tuple[str, ...]:
    """Returns the mesh axis over which a dimension is split, as `parallel.rules` splits parameters; () if it is not."""
    ways = axis_size(axis)
    return (axis,) if ways > 1 and size % ways == 0 else ()


def row_axes() -> tuple[str, ...]:
    """Returns the mesh axes over which rows are split."""
    return tuple(axis for axis in ("data", "fsdp") if axis_size(axis) > 1)


def sum_over(x: Any, axes: tuple[str, ...]) -> Any:
    """Sums over the devices along the axes, if any."""
    return jax.lax.psum(x, axes) if axes else x


def max_over(x: Any, axes: tuple[str, ...]) -> Any:
    """Takes the largest over the devices along the axes, if any."""
    return jax.lax.pmax(x, axes) if axes else x
