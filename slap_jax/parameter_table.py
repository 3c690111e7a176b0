"""The table of parameters that every run writes to `params.txt`."""

import math
from typing import Any

import jax

from slap_jax.paths import path_name


def parameter_table(params: Any) -> str:
    """Lists every parameter: path, shape, dtype, count, and how it is split when it is on a mesh.

    Args:
        params: tree of arrays or `jax.ShapeDtypeStruct`s; nothing is read from the device.

    Returns:
        Lines of aligned columns, then one line per top-level part and the total.
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
