"""Parameters as nested dicts and as `a/b/c` paths, the names used in checkpoints, exports, rules and `params.txt`."""

import math
from collections.abc import Mapping
from typing import Any

import jax


def path_name(path: tuple[Any, ...]) -> str:
    """Joins a key path of `jax.tree_util` with slashes: attributes, keys and positions."""
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
    """Returns `tree` with the leaves of `replacement` replaced or added."""
    merged = dict(tree)
    for key, value in replacement.items():
        merged[key] = overlay(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged


def select(tree: Any, paths: tuple[str, ...]) -> dict[str, Any]:
    """Returns only the subtrees at the given paths."""
    return unflatten({path: at_path(tree, path) for path in paths})


def parameter_table(params: Any) -> str:
    """Returns the table that a run writes to `params.txt`: path, shape, dtype, count and sharding of every parameter.

    One line for each top-level part and the total follow.

    Args:
        params: tree of arrays or `jax.ShapeDtypeStruct`s; no values are read.
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    rows = [("parameter", "shape", "dtype", "count", "split")]
    parts: dict[str, int] = {}
    for path, leaf in leaves:
        name = path_name(path)
        count = math.prod(leaf.shape)
        part = "/".join(name.split("/")[:2])
        parts[part] = parts.get(part, 0) + count
        rows.append((name, "x".join(map(str, leaf.shape)) or "-", str(leaf.dtype), f"{count:,}", _split(leaf)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        name, shape, dtype, count, split = (
            cell.rjust(width) if column == 3 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(f"{name}  {shape}  {dtype}  {count}  {split}".rstrip())
    lines.append("")
    lines += [f"{part}: {count:,}" for part, count in parts.items()]
    lines.append(f"total: {sum(parts.values()):,}")
    return "\n".join(lines) + "\n"


def _split(leaf: Any) -> str:
    spec = getattr(getattr(leaf, "sharding", None), "spec", None)
    return "" if spec is None or not any(spec) else ", ".join(str(axis or "-") for axis in spec)
