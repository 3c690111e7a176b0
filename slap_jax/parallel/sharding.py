"""The device mesh, the rules that shard parameters and batches over it, and the helpers of sharded functions.

The mesh has the axes `data`, `fsdp` and `tensor`, over any number of devices, hosts and slices. One ordered list of
path rules shards parameters, optimiser state and teacher alike.
"""

import contextlib
import contextvars
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array
from ml_collections import ConfigDict

from slap_jax.config.defaults import mesh_sizes
from slap_jax.config.rules import ConfigError
from slap_jax.params import path_name

AXES: tuple[str, ...] = ("data", "fsdp", "tensor")
BATCH_AXES: tuple[str, ...] = ("data", "fsdp")

# The batch's rows are split over both axes: devices along `fsdp` share the storage of parameters, not their rows.
BATCH_SPEC = PartitionSpec(BATCH_AXES)


def create_mesh(parallel: ConfigDict, devices: Sequence[Any] | None = None) -> Mesh:
    """Builds the mesh over `devices` (all of them by default), with `tensor` on the closest devices.

    With several TPU slices, only `data` crosses the slow network between them.

    Raises:
        ConfigError: the sizes do not fit the devices, or two hosts would need the same rows of the batch.
    """
    devices = list(jax.devices() if devices is None else devices)
    grid = device_grid(mesh_sizes(parallel, len(devices)), devices)
    _check_rows_per_host(grid)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def device_grid(sizes: tuple[int, int, int], devices: list[Any]) -> np.ndarray:
    """Returns the devices as an array of the mesh's shape.

    Raises:
        ConfigError: there are several slices, and `data` is not a multiple of their number.
    """
    slices = len({getattr(device, "slice_index", 0) or 0 for device in devices})
    if slices > 1:
        if sizes[0] % slices:
            raise ConfigError(
                f"config.parallel.data is {sizes[0]}, not a multiple of the {slices} slices; only the data axis may "
                "cross slices"
            )
        within = (sizes[0] // slices, *sizes[1:])
        return _torus(mesh_utils.create_hybrid_device_mesh, within, (slices, 1, 1), devices=devices)
    if devices[0].platform == "tpu":
        return _torus(mesh_utils.create_device_mesh, sizes, devices=devices)
    # GPUs and CPUs are listed host by host, so the last axes stay inside a host.
    return np.array(devices, dtype=object).reshape(sizes)


def _torus(create: Callable[..., np.ndarray], *sizes: tuple[int, ...], devices: list[Any]) -> np.ndarray:
    """Lays mesh axes along whole links of the TPU; an axis splits a link only if nothing else fits."""
    try:
        return create(*sizes, devices=devices)
    except NotImplementedError:
        return create(*sizes, devices=devices, allow_split_physical_axes=True)


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the sharding of a batch: rows over `data` and `fsdp`, other axes replicated."""
    return NamedSharding(mesh, BATCH_SPEC)


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the sharding that puts the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def _check_rows_per_host(grid: np.ndarray) -> None:
    """Raises if a tensor group spans two hosts: every host reads different rows, and a group shares its rows."""
    for data, fsdp in np.ndindex(*grid.shape[:2]):
        hosts = {device.process_index for device in grid[data, fsdp]}
        if len(hosts) > 1:
            raise ConfigError(
                f"config.parallel.tensor is {grid.shape[2]}, which spans the hosts {sorted(hosts)}; write at most "
                "the devices of one host, and leave the rest to data and fsdp"
            )


# (pattern searched in the path, mesh axis of each of the LAST dimensions); the first match decides. Leading dimensions
# without an axis are stacked layers and stay whole: the scan over layers slices them. Devices along `fsdp` have
# different rows, so a parameter is only stored in shards along `fsdp` and is gathered where it is used: the rule shards
# its largest dimension that `tensor` does not.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    # Column parallel: each tensor shard computes its own heads, hidden units or prototypes.
    (r"/(query|key|value|gate|up)/kernel$", ("fsdp", "tensor")),
    (r"/head/input/kernel$", ("fsdp", "tensor")),
    (r"/head/prototypes$", ("fsdp", "tensor")),
    # Row parallel: the next matrix; its partial results are summed over the tensor shards.
    (r"/(out|down)/kernel$", ("tensor", "fsdp")),
    (r"/head/hidden/kernel$", ("tensor", "fsdp")),
    # The vocabulary is split as the prototypes are: each shard scores its own tokens.
    (r"/embedding/table$", ("tensor", "fsdp")),
    # Matrices at the ends of the towers.
    (r"/patch_embedding/kernel$", (None, "fsdp")),
    (r"/kernel$", ("fsdp", None)),
    # Norm scales, biases, probes, temperatures and counters are too small to shard.
    (r"", ()),
)


def partition_spec(path: str, shape: tuple[int, ...], mesh_shape: dict[str, int]) -> PartitionSpec:
    """Returns the spec of one array.

    Args:
        path: `/`-joined, with a leading `/`. Rules match its end, so `optimizer/.../mu/model/x/kernel` is sharded as
            `model/x/kernel` is.
        shape: shape of the array.
        mesh_shape: axis name -> size. A dimension that its axis does not divide is replicated.
    """
    axes = next(axes for pattern, axes in RULES if re.search(pattern, path))
    if len(axes) > len(shape):
        return PartitionSpec()
    axes = (None,) * (len(shape) - len(axes)) + axes
    kept = [axis if axis and size % mesh_shape[axis] == 0 else None for axis, size in zip(axes, shape, strict=True)]
    return PartitionSpec(*kept) if any(kept) else PartitionSpec()


def shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Returns the tree of `NamedSharding`s of a tree of arrays or `jax.ShapeDtypeStruct`s."""
    mesh_shape = dict(mesh.shape)

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, partition_spec("/" + path_name(path), tuple(leaf.shape), mesh_shape))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def with_shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Returns the tree of `jax.ShapeDtypeStruct`s with shardings that a checkpoint is restored to."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings(tree, mesh),
    )


def shard_map_if_mesh(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """Returns `jax.shard_map` of the function over the mesh in context, or the function itself without a mesh.

    For kernels that XLA cannot partition and loops whose length differs between devices. Inside another `shard_map`,
    and on a mesh of one device, the function is returned unchanged.

    Args:
        function: sees the local shapes.
        in_specs: one partition spec for each argument.
        out_specs: partition specs of the results.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or mesh.size == 1:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def axis_size(name: str) -> int:
    """Returns the size of an axis of the mesh in context; 1 without a mesh."""
    return jax.sharding.get_abstract_mesh().shape.get(name, 1)


def constrain(x: Array, spec: PartitionSpec) -> Array:
    """Constrains an array's sharding over the mesh in context; without a mesh, returns it unchanged."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


_TARGET: contextvars.ContextVar[str | None] = contextvars.ContextVar("target platform", default=None)


def target_platform() -> str:
    """Returns "cpu", "gpu" or "tpu", the platform that the program being traced will run on.

    Kernels are chosen while tracing. `jax.default_backend()` would name the platform of the compiling machine.
    """
    return _TARGET.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Makes `target_platform()` return `platform` in the body; trace new functions there, not cached ones."""
    token = _TARGET.set(platform)
    try:
        yield
    finally:
        _TARGET.reset(token)
