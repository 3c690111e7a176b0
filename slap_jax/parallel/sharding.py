"""The device mesh: axes `data`, `fsdp` and `tensor` over any number of devices, hosts and slices.

Which mesh axes split which parameter: one ordered list of path rules, for optimiser and teacher too.

Functions that every device applies to its own rows: kernels that XLA cannot partition, and loops of local length.

What a program is compiled for: the machine's own devices, or others that are described but not there.
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

# Rows are split over both: fsdp ways hold different rows too, they only share the storage of parameters.
BATCH_SPEC = PartitionSpec(BATCH_AXES)


def create_mesh(parallel: ConfigDict, devices: Sequence[Any] | None = None) -> Mesh:
    """Builds the mesh over `devices` (all of them by default), with `tensor` on the closest neighbours.

    On several TPU slices only `data` crosses the slow network between them.

    Raises:
        ConfigError: the sizes do not fit the devices, or two hosts would need the same rows of the batch.
    """
    devices = list(jax.devices() if devices is None else devices)
    grid = device_grid(mesh_sizes(parallel, len(devices)), devices)
    _check_rows_per_host(grid)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def device_grid(sizes: tuple[int, int, int], devices: list[Any]) -> np.ndarray:
    """Lays the devices out as an array of the mesh's shape.

    Raises:
        ConfigError: there are several slices and `data` is no multiple of their number.
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
    # GPUs and CPUs: the order of the devices is host by host, so the last axes stay inside a host.
    return np.array(devices, dtype=object).reshape(sizes)


def _torus(create: Callable[..., np.ndarray], *sizes: tuple[int, ...], devices: list[Any]) -> np.ndarray:
    """Lays mesh axes along the links of the TPU; only where whole links do not fit may an axis split one."""
    try:
        return create(*sizes, devices=devices)
    except NotImplementedError:
        return create(*sizes, devices=devices, allow_split_physical_axes=True)


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Rows over `data` and `fsdp`, everything else whole."""
    return NamedSharding(mesh, BATCH_SPEC)


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def _check_rows_per_host(grid: np.ndarray) -> None:
    """Every host reads rows of its own, so a tensor group must not reach over two hosts."""
    for data, fsdp in np.ndindex(*grid.shape[:2]):
        hosts = {device.process_index for device in grid[data, fsdp]}
        if len(hosts) > 1:
            raise ConfigError(
                f"config.parallel.tensor is {grid.shape[2]}, which reaches over the hosts {sorted(hosts)}; write at "
                "most the devices of one host, and leave the rest to data and fsdp"
            )


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


def shard_map_if_mesh(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
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


def constrain(x: Array, spec: PartitionSpec) -> Array:
    """Asks XLA to lay an array out over the mesh in context; without a mesh, returns it as it is."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


_TARGET: contextvars.ContextVar[str | None] = contextvars.ContextVar("target platform", default=None)


def target_platform() -> str:
    """Returns "cpu", "gpu" or "tpu": what the program that is being traced will run on.

    Choices between kernels are made while tracing, so they must ask here and not `jax.default_backend()`, which tells
    what the machine has that compiles.
    """
    return _TARGET.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Makes `target_platform()` answer `platform` inside; trace fresh functions there, not ones traced before."""
    token = _TARGET.set(platform)
    try:
        yield
    finally:
        _TARGET.reset(token)
