"""Which mesh axes split which parameter: one ordered list of path rules, for optimiser and teacher too."""

import re
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from slap_jax.paths import path_name

# (pattern searched in the path, mesh axis of each of the LAST dimensions); the first match decides. Leading dimensions
# that the rule does not name are stacked layers and stay whole: the scan over layers slices them. Rows are `fsdp` ways'
# own, so a parameter split over `fsdp` is gathered for its use and only stored in pieces: its largest dimension that
# `tensor` leaves over is split.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    # Column parallel: every tensor way computes heads, hidden units or prototypes of its own.
    (r"/(query|key|value|gate|up)/kernel$", ("fsdp", "tensor")),
    (r"/head/input/kernel$", ("fsdp", "tensor")),
    (r"/head/prototypes$", ("fsdp", "tensor")),
    # Row parallel: the next matrix, whose partial results are summed over the tensor ways.
    (r"/(out|down)/kernel$", ("tensor", "fsdp")),
    (r"/head/hidden/kernel$", ("tensor", "fsdp")),
    # The vocabulary is split as prototypes are: each way scores tokens of its own.
    (r"/embedding/table$", ("tensor", "fsdp")),
    # Matrices at the ends of the towers, used once.
    (r"/patch_embedding/kernel$", (None, "fsdp")),
    (r"/kernel$", ("fsdp", None)),
    # Norm scales, biases, probes, temperatures, counters: too small to be worth splitting.
    (r"", ()),
)


def partition_spec(path: str, shape: tuple[int, ...], mesh_shape: dict[str, int]) -> PartitionSpec:
    """Returns the spec of one array.

    Args:
        path: `/`-joined and with a leading `/`; rules search its end, so `optimizer/.../mu/model/x/kernel` is split
            as `model/x/kernel` is.
        shape: of the array.
        mesh_shape: axis name -> size. A dimension that its axis does not divide stays whole.
    """
    axes = next(axes for pattern, axes in RULES if re.search(pattern, path))
    if len(axes) > len(shape):
        return PartitionSpec()
    axes = (None,) * (len(shape) - len(axes)) + axes
    kept = [axis if axis and size % mesh_shape[axis] == 0 else None for axis, size in zip(axes, shape, strict=True)]
    return PartitionSpec(*kept) if any(kept) else PartitionSpec()


def shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Returns the `NamedSharding` of every array (or `jax.ShapeDtypeStruct`) of a state, in the structure of `tree`."""
    mesh_shape = dict(mesh.shape)

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, partition_spec("/" + path_name(path), tuple(leaf.shape), mesh_shape))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def with_shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Returns `jax.ShapeDtypeStruct`s that carry the shardings: what a checkpoint restores to."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings(tree, mesh),
    )
