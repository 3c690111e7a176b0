"""The mesh: sizes are resolved or rejected, and the axes follow hosts and slices.

Every parameter of the full-size model is sharded as intended, as are optimiser state and teacher.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from slap_jax import params as paths
from slap_jax.config.defaults import default_config
from slap_jax.config.rules import ConfigError
from slap_jax.parallel.sharding import (
    RULES,
    _check_rows_per_host,
    batch_sharding,
    create_mesh,
    device_grid,
    mesh_sizes,
    partition_spec,
    replicated,
    shardings,
    with_shardings,
)
from slap_jax.training.optimizer import create_optimizer
from slap_jax.training.state import TrainState, create_state


def _parallel(data: int, fsdp: int, tensor: int) -> ConfigDict:
    return ConfigDict({"data": data, "fsdp": fsdp, "tensor": tensor})


@pytest.mark.parametrize(
    ("requested", "devices", "sizes"),
    [
        ((-1, 1, 1), 8, (8, 1, 1)),
        ((-1, 2, 2), 8, (2, 2, 2)),
        ((2, -1, 1), 8, (2, 4, 1)),
        ((1, 1, -1), 4, (1, 1, 4)),
        ((4, 2, 1), 8, (4, 2, 1)),
    ],
)
def test_sizes(requested, devices, sizes):
    assert mesh_sizes(_parallel(*requested), devices) == sizes


@pytest.mark.parametrize(("requested", "devices"), [((3, 1, 1), 8), ((-1, 3, 1), 8), ((-1, -1, 1), 8)])
def test_impossible_sizes_are_errors(requested, devices):
    with pytest.raises(ConfigError, match=r"config\.parallel=.*write"):
        mesh_sizes(_parallel(*requested), devices)


def test_mesh_has_auto_axes_and_keeps_tensor_neighbours_together():
    mesh = create_mesh(_parallel(2, 2, 2))
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert set(mesh.axis_types) == {AxisType.Auto}
    ids = np.vectorize(lambda device: device.id)(mesh.devices)
    assert (ids[..., 1] - ids[..., 0] == 1).all()


def test_mesh_over_some_of_the_devices():
    mesh = create_mesh(_parallel(1, 1, 1), jax.devices()[3:4])
    assert mesh.devices.ravel().tolist() == jax.devices()[3:4]


def test_rows_are_sharded_over_data_and_fsdp():
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


P = PartitionSpec
COLUMN, ROW = ("fsdp", "tensor"), ("tensor", "fsdp")

# Expected sharding by the end of the path. Stacked layers have one more leading dimension, which is not sharded.
INTENDED = {
    "query/kernel": COLUMN,
    "key/kernel": COLUMN,
    "value/kernel": COLUMN,
    "out/kernel": ROW,
    "gate/kernel": COLUMN,
    "up/kernel": COLUMN,
    "down/kernel": ROW,
    "embedding/table": ROW,
    "patch_embedding/kernel": (None, "fsdp"),
    "memory_projection/kernel": ("fsdp", None),
    "audio_projection/kernel": ("fsdp", None),
    "text_projection/kernel": ("fsdp", None),
    "input/kernel": COLUMN,
    "hidden/kernel": ROW,
    "output/kernel": ("fsdp", None),
    "head/prototypes": COLUMN,
}
WHOLE = {"scale", "bias", "probe", "mask_token", "log_scale"}


def path_name(path) -> str:
    """Returns the path of a parameter as the rules see it."""
    return "/" + paths.path_name(path)


@functools.cache
def _state() -> TrainState:
    """Shapes of the default, full-size configuration with every objective."""
    config = default_config()
    transform = create_optimizer(config.optimizer, config.train.steps)
    return jax.eval_shape(lambda: create_state(config, transform))


def _mesh(data: int, fsdp: int, tensor: int) -> jax.sharding.Mesh:
    return create_mesh(ConfigDict({"data": data, "fsdp": fsdp, "tensor": tensor}))


@pytest.mark.compile
def test_every_parameter_is_sharded_as_intended():
    mesh_shape = {"data": 2, "fsdp": 2, "tensor": 2}
    for path, leaf in jax.tree_util.tree_flatten_with_path(_state().params)[0]:
        name = path_name(path)
        spec = partition_spec(name, leaf.shape, mesh_shape)
        end = "/".join(name.split("/")[-2:])
        if end in INTENDED:
            stacked = (None,) * (len(leaf.shape) - 2)
            assert spec == P(*stacked, *INTENDED[end]), name
        else:
            assert name.split("/")[-1] in WHOLE, f"{name}: add the rule it should follow"
            assert spec == P(), name


def test_every_rule_is_needed():
    names = [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(_state().params)[0]]
    first = {next(pattern for pattern, _ in RULES if re.search(pattern, name)) for name in names}
    assert first == {pattern for pattern, _ in RULES}


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2), (1, 1, 8), (1, 2, 4)])
def test_the_full_size_model_divides(sizes):
    """No matrix is replicated: each device holds a part of all but the small parameters."""
    mesh_shape = dict(_mesh(*sizes).shape)
    for path, leaf in jax.tree_util.tree_flatten_with_path(_state().params)[0]:
        name = path_name(path)
        expected = next(axes for pattern, axes in RULES if re.search(pattern, name))
        kept = [axis for axis in partition_spec(name, leaf.shape, mesh_shape) if axis]
        assert kept == [axis for axis in expected if axis], name


def test_optimizer_and_teacher_follow_the_parameters():
    split = shardings(_state(), _mesh(2, 2, 2))
    of_params = {path_name(path): sharding.spec for path, sharding in _flat(split.params)}
    followed = 0
    for tree in (split.teacher, split.optimizer):
        for path, sharding in _flat(tree):
            name = path_name(path)
            original = next((spec for key, spec in of_params.items() if name.endswith(key)), P())
            assert sharding.spec == original, name
            followed += original != P()
    assert followed > 2 * 20


def _flat(tree) -> list[tuple[tuple, NamedSharding]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def test_a_dimension_that_does_not_divide_stays_whole():
    mesh_shape = {"data": 1, "fsdp": 2, "tensor": 4}
    assert partition_spec("/x/up/kernel", (6, 10), mesh_shape) == P("fsdp", None)
    assert partition_spec("/x/up/kernel", (3, 10), mesh_shape) == P()
    assert partition_spec("/x/up/kernel", (5, 6, 8), mesh_shape) == P(None, "fsdp", "tensor")


def test_rules_match_whole_names_only():
    mesh_shape = {"data": 1, "fsdp": 2, "tensor": 2}
    assert partition_spec("/x/setup/kernel", (4, 4), mesh_shape) == P("fsdp", None)


@pytest.mark.compile
def test_a_state_can_be_created_and_placed_under_the_rules():
    mesh = _mesh(2, 2, 2)
    tree = {"model": {"mlp": {"up": {"kernel": np.zeros((3, 8, 16), np.float32)}}, "norm": {"scale": np.ones(8)}}}
    placed = jax.jit(lambda: jax.tree.map(jnp.asarray, tree), out_shardings=shardings(tree, mesh))()
    kernel = placed["model"]["mlp"]["up"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 4, 8)}
    abstract = with_shardings(tree, mesh)["model"]["mlp"]["up"]["kernel"]
    assert abstract.sharding == kernel.sharding
    assert abstract.shape == (3, 8, 16)
