"""Functions that every device applies to its own rows: kernels that XLA cannot partition, and loops of local length."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array


def per_device(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """Wraps a function so that each device of the mesh in context calls it on its part of the arguments.

    Without a mesh (`jax.set_mesh` was not called), or inside another such function, it is returned as it is.

    Args:
        function: of arrays; sees local shapes.
        in_specs: partition of each argument over the mesh's axes.
        out_specs: partition of the results.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or mesh.size == 1:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def axis_size(name: str) -> int:
    """Devices along an axis of the mesh in context; 1 without a mesh."""
    return jax.sharding.get_abstract_mesh().shape.get(name, 1)


ROWS = PartitionSpec(("data", "fsdp"))


def constrain(x: Array, spec: PartitionSpec) -> Array:
    """Asks XLA to lay an array out over the mesh in context; without a mesh, returns it as it is."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec)
