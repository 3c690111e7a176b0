"""The device mesh: axes `data`, `fsdp` and `tensor` over any number of devices, hosts and slices."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from slap_jax.config import ConfigError

AXES: tuple[str, ...] = ("data", "fsdp", "tensor")
# Rows are split over both: fsdp ways hold different rows too, they only share the storage of parameters.
BATCH_SPEC = PartitionSpec(("data", "fsdp"))


def mesh_sizes(parallel: ConfigDict, device_count: int) -> tuple[int, int, int]:
    """Resolves `config.parallel` to the size of every axis.

    Args:
        parallel: `data`, `fsdp` and `tensor`; at most one is -1 and takes the devices that are left.
        device_count: devices over all hosts.

    Raises:
        ConfigError: the sizes do not multiply to `device_count`.
    """
    sizes = [int(parallel[axis]) for axis in AXES]
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise ConfigError(
            f"config.parallel={dict(parallel)}: write positive sizes, and -1 for at most one axis (it takes the rest)"
        )
    fixed = math.prod(size for size in sizes if size != -1)
    if device_count % fixed or (-1 not in sizes and fixed != device_count):
        raise ConfigError(
            f"config.parallel={dict(parallel)} covers {fixed} devices, but there are {device_count}; write sizes whose "
            f"product is {device_count}, or -1 for one axis"
        )
    data, fsdp, tensor = (device_count // fixed if size == -1 else size for size in sizes)
    return data, fsdp, tensor


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
