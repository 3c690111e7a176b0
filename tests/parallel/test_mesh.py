"""The mesh: sizes resolve or raise, and only the data axis crosses hosts' rows."""

import jax
import numpy as np
import pytest
from jax.experimental import mesh_utils
from jax.sharding import AxisType, PartitionSpec
from ml_collections import ConfigDict

from slap_jax.config import ConfigError
from slap_jax.parallel.mesh import (
    _check_rows_per_host,
    batch_sharding,
    create_mesh,
    device_grid,
    mesh_sizes,
    replicated,
)


def _parallel(data: int, fsdp: int, tensor: int) -> ConfigDict:
    return ConfigDict({"data": data, "fsdp": fsdp, "tensor": tensor})


@pytest.mark.parametrize(
    ("wanted", "devices", "sizes"),
    [
        ((-1, 1, 1), 8, (8, 1, 1)),
        ((-1, 2, 2), 8, (2, 2, 2)),
        ((2, -1, 1), 8, (2, 4, 1)),
        ((1, 1, -1), 4, (1, 1, 4)),
        ((4, 2, 1), 8, (4, 2, 1)),
    ],
)
def test_sizes(wanted, devices, sizes):
    assert mesh_sizes(_parallel(*wanted), devices) == sizes


@pytest.mark.parametrize(
    ("wanted", "devices"), [((3, 1, 1), 8), ((-1, 3, 1), 8), ((-1, -1, 1), 8), ((0, 1, 1), 8), ((-2, 1, 1), 8)]
)
def test_impossible_sizes_name_what_was_found(wanted, devices):
    with pytest.raises(ConfigError, match=r"config\.parallel=.*write"):
        mesh_sizes(_parallel(*wanted), devices)


def test_mesh_has_auto_axes_and_keeps_tensor_neighbours_together():
    mesh = create_mesh(_parallel(2, 2, 2))
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert set(mesh.axis_types) == {AxisType.Auto}
    ids = np.vectorize(lambda device: device.id)(mesh.devices)
    assert (ids[..., 1] - ids[..., 0] == 1).all()


def test_mesh_over_some_of_the_devices():
    mesh = create_mesh(_parallel(1, 1, 1), jax.devices()[3:4])
    assert mesh.devices.ravel().tolist() == jax.devices()[3:4]


def test_rows_are_split_over_data_and_fsdp():
    mesh = create_mesh(_parallel(2, 2, 2))
    assert batch_sharding(mesh).spec == PartitionSpec(("data", "fsdp"))
    rows = jax.device_put(np.arange(8), batch_sharding(mesh))
    assert {shard.data.shape for shard in rows.addressable_shards} == {(2,)}
    assert jax.device_put(np.arange(8), replicated(mesh)).is_fully_replicated


class _Device:
    def __init__(self, process_index: int, slice_index: int = 0):
        self.process_index, self.slice_index, self.platform = process_index, slice_index, "tpu"


def test_only_data_crosses_slices(monkeypatch):
    calls = []
    monkeypatch.setattr(mesh_utils, "create_hybrid_device_mesh", lambda *sizes, devices: calls.append(sizes))
    devices = [_Device(index // 4, index // 8) for index in range(16)]
    device_grid((4, 2, 2), devices)
    assert calls == [((2, 2, 2), (2, 1, 1))]
    with pytest.raises(ConfigError, match=r"config\.parallel\.data is 1, not a multiple of the 2 slices"):
        device_grid((1, 8, 2), devices)


def test_an_axis_splits_a_link_of_the_torus_only_where_it_must(monkeypatch):
    calls = []

    def create(sizes, devices, **options):
        calls.append(options)
        if not options:
            raise NotImplementedError("no assignment of whole links")
        return np.array(devices, dtype=object).reshape(sizes)

    monkeypatch.setattr(mesh_utils, "create_device_mesh", create)
    assert device_grid((2, 4, 2), [_Device(0)] * 16).shape == (2, 4, 2)
    assert calls == [{}, {"allow_split_physical_axes": True}]


def test_a_tensor_group_over_two_hosts_is_refused():
    inside = np.array([_Device(host) for host in (0, 0, 1, 1)], dtype=object).reshape(2, 1, 2)
    _check_rows_per_host(inside)
    with pytest.raises(ConfigError, match=r"config\.parallel\.tensor is 4.*hosts \[0, 1\]"):
        _check_rows_per_host(inside.reshape(1, 1, 4))
