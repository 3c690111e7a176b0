"""Loops over chunks of every row, so that large intermediates exist for one chunk at a time.

A chunk is a range of positions in all of a device's rows, not a subset of the rows: rows are sharded over devices, so a
loop over rows would leave all devices but one idle. Rows are filled from the front, so the loop stops after the last
position in use. Every function here runs inside `shard_map_if_mesh`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from slap_jax.parallel.sharding import BATCH_AXES, axis_size


def chunk_size(length: int, limit: int) -> int:
    """Returns the size of the fewest, most even chunks of at most `limit` positions; a limit of 0 means one chunk."""
    count = -(-length // min(limit or length, length))
    return -(-length // count)


def num_used_chunks(used: Bool[Array, "R N"], size: int) -> Int[Array, ""]:
    """Returns how many chunks of `size` positions reach the last used position of any row."""
    ends = jnp.arange(1, used.shape[1] + 1)
    return -(-jnp.max(jnp.where(used, ends, 0)) // size)


def pad_to_multiple(x: Shaped[Array, "R N ..."], size: int) -> Shaped[Array, "R M ..."]:
    """Pads the positions with zeros to a multiple of `size`."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), *[(0, 0)] * (x.ndim - 2)))


def take_chunk(x: Shaped[Array, "R M ..."], index: Array | int, size: int) -> Shaped[Array, "n ..."]:
    """Returns one chunk of all rows with rows and positions merged: n = R * size."""
    return jax.lax.dynamic_slice_in_dim(x, index * size, size, axis=1).reshape(-1, *x.shape[2:])


def update_chunk(x: Shaped[Array, "R M ..."], values: Shaped[Array, "n ..."], index: Array | int, size: int) -> Array:
    """Returns `x` with the chunk that `take_chunk` would read replaced by `values`."""
    values = values.reshape(x.shape[0], size, *x.shape[2:])
    return jax.lax.dynamic_update_slice_in_dim(x, values.astype(x.dtype), index * size, axis=1)


def loop_over_chunks(body: Callable[[Any, Any], Any], init: Any, num_chunks: Array, length: int, size: int) -> Any:
    """Applies `carry = body(index, carry)` to each chunk in use, starting from `init`.

    If the row is a single chunk there is no loop, so that XLA can share what two loops compute alike.
    """
    if length <= size:
        return body(0, init)
    return jax.lax.fori_loop(0, num_chunks, body, init)


def sharded_axes(size: int) -> tuple[str, ...]:
    """Returns ("tensor",) if the sharding rules split a dimension of `size` over it, else ()."""
    num_shards = axis_size("tensor")
    return ("tensor",) if num_shards > 1 and size % num_shards == 0 else ()


def batch_axes() -> tuple[str, ...]:
    """Returns the mesh axes over which rows are split."""
    return tuple(axis for axis in BATCH_AXES if axis_size(axis) > 1)


def psum(x: Any, axes: tuple[str, ...]) -> Any:
    """`jax.lax.psum`, and the identity if there are no axes."""
    return jax.lax.psum(x, axes) if axes else x


def pmax(x: Any, axes: tuple[str, ...]) -> Any:
    """`jax.lax.pmax`, and the identity if there are no axes."""
    return jax.lax.pmax(x, axes) if axes else x
