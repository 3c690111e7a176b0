"""Nested dicts and their paths.

The parameter table: every parameter once, correct totals, no values read.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from slap_jax.parallel.sharding import create_mesh, with_shardings
from slap_jax.params import at_path, flatten, overlay, parameter_table, select, unflatten
from slap_jax.training.state import TrainState

TREE = {"a": {"x": 1, "y": {"z": 2}}, "b": 3}


def test_flatten_and_unflatten():
    assert flatten(TREE) == {"a/x": 1, "a/y/z": 2, "b": 3}
    assert unflatten(flatten(TREE)) == TREE


def test_attributes_and_positions_have_paths_too():
    one = jnp.ones(())
    state = TrainState(one, {"w": one}, {}, (one, {"mu": one}), one)
    assert list(flatten(state)) == ["step", "params/w", "optimizer/0", "optimizer/1/mu", "bad_steps"]


def test_select_and_overlay_do_not_touch_the_original():
    part = select(TREE, ("a/y", "b"))
    assert part == {"a": {"y": {"z": 2}}, "b": 3} and at_path(part, "a/y") == {"z": 2}
    assert overlay(TREE, {"a": {"y": {"z": 9}}, "c": 4}) == {"a": {"x": 1, "y": {"z": 9}}, "b": 3, "c": 4}
    assert TREE == {"a": {"x": 1, "y": {"z": 2}}, "b": 3}


TABLE_TREE = {
    "model": {
        "audio_encoder": {"up": {"kernel": jax.ShapeDtypeStruct((2, 8, 32), np.float32)}},
        "text_encoder": {"norm": {"scale": jax.ShapeDtypeStruct((8,), np.float32)}},
    },
    "objectives": {"contrastive": {"log_scale": jax.ShapeDtypeStruct((), np.float32)}},
}


def test_rows_and_totals():
    lines = parameter_table(TABLE_TREE).splitlines()
    cells = [line.split() for line in lines]
    assert cells[0] == ["parameter", "shape", "dtype", "count", "split"]
    assert ["model/audio_encoder/up/kernel", "2x8x32", "float32", "512"] in cells
    assert ["objectives/contrastive/log_scale", "-", "float32", "1"] in cells
    assert lines[-4:] == [
        "model/audio_encoder: 512",
        "model/text_encoder: 8",
        "objectives/contrastive: 1",
        "total: 521",
    ]


def test_the_table_shows_the_sharding_of_parameters():
    mesh = create_mesh(ConfigDict({"data": 2, "fsdp": 2, "tensor": 2}))
    table = parameter_table(with_shardings(TABLE_TREE, mesh))
    (line,) = [line for line in table.splitlines() if "up/kernel" in line]
    assert line.endswith("-, fsdp, tensor")


def test_columns_are_aligned():
    rows = parameter_table(TABLE_TREE).splitlines()[:4]
    assert len({row.index("float32") for row in rows[1:]}) == 1
