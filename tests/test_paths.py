"""Nested dicts and their paths."""

import jax.numpy as jnp

from slap_jax.paths import at_path, flatten, overlay, select, unflatten
from slap_jax.train_state import TrainState

TREE = {"a": {"x": 1, "y": {"z": 2}}, "b": 3}


def test_paths_and_back():
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
