"""Parameters as nested dicts and as `a/b/c` paths: the names in checkpoints, exports, rules and tables."""

from collections.abc import Mapping
from typing import Any

import jax


def path_name(path: tuple[Any, ...]) -> str:
    """Joins a key path of `jax.tree_util`: attributes, keys and positions alike, whatever the Python classes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: Any) -> dict[str, Any]:
    """Returns path -> leaf of any pytree."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested dicts of path -> leaf."""
    nested: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return nested


def at_path(tree: Any, path: str) -> Any:
    """Returns the subtree of nested dicts at a path."""
    for key in path.split("/"):
        tree = tree[key]
    return tree


def overlay(tree: dict[str, Any], replacement: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `tree` with the leaves that `replacement` holds exchanged or added."""
    merged = dict(tree)
    for key, value in replacement.items():
        merged[key] = overlay(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged


def select(tree: Any, paths: tuple[str, ...]) -> dict[str, Any]:
    """Keeps the subtrees at the given paths."""
    return unflatten({path: at_path(tree, path) for path in paths})
