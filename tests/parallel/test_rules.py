"""Every parameter of the full-size model is split as intended, and optimiser and teacher follow the parameters."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from slap_jax import paths
from slap_jax.config import default_config
from slap_jax.optimizer import create_optimizer
from slap_jax.parallel.mesh import create_mesh
from slap_jax.parallel.rules import RULES, partition_spec, shardings, with_shardings
from slap_jax.train_state import TrainState, create_state

P = PartitionSpec
COLUMN, ROW = ("fsdp", "tensor"), ("tensor", "fsdp")

# What a reader expects, by the end of the path; stacked layers have one more dimension in front, which stays whole.
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
    """As the rules see it."""
    return "/" + paths.path_name(path)


@functools.cache
def _state() -> TrainState:
    """Shapes of the default, full-size configuration with every objective."""
    config = default_config()
    transform = create_optimizer(config.optimizer, config.train.steps)
    return jax.eval_shape(lambda: create_state(config, transform))


def _mesh(data: int, fsdp: int, tensor: int) -> jax.sharding.Mesh:
    return create_mesh(ConfigDict({"data": data, "fsdp": fsdp, "tensor": tensor}))


def test_every_parameter_is_split_as_intended():
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
    """No matrix falls back to whole: a device holds its share of all but the small parameters."""
    mesh_shape = dict(_mesh(*sizes).shape)
    for path, leaf in jax.tree_util.tree_flatten_with_path(_state().params)[0]:
        name = path_name(path)
        wanted = next(axes for pattern, axes in RULES if re.search(pattern, name))
        kept = [axis for axis in partition_spec(name, leaf.shape, mesh_shape) if axis]
        assert kept == [axis for axis in wanted if axis], name


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


def test_a_state_can_be_created_and_placed_under_the_rules():
    mesh = _mesh(2, 2, 2)
    tree = {"model": {"mlp": {"up": {"kernel": np.zeros((3, 8, 16), np.float32)}}, "norm": {"scale": np.ones(8)}}}
    placed = jax.jit(lambda: jax.tree.map(jnp.asarray, tree), out_shardings=shardings(tree, mesh))()
    kernel = placed["model"]["mlp"]["up"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 4, 8)}
    abstract = with_shardings(tree, mesh)["model"]["mlp"]["up"]["kernel"]
    assert abstract.sharding == kernel.sharding
    assert abstract.shape == (3, 8, 16)
