"""The text of a compiled program: its computations, and the arrays that it stores."""

import math
import re

ITEM_BYTES: dict[str, float] = {
    **dict.fromkeys(("s4", "u4"), 0.5),
    **dict.fromkeys(("pred", "s8", "u8"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    "c128": 16,
}
ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_FUSED = re.compile(r" fusion\(.*\bcalls=%?([\w.\-]+)")
_RESULT = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (\w+)\[([\d,]+)\]")


def computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of every computation by its name, and the name of the one that runs first."""
    found: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in hlo.splitlines():
        match = _COMPUTATION.match(line) if line and not line.startswith(" ") else None
        if match:
            lines = found.setdefault(match["name"], [])
            entry = match["name"] if match["entry"] else entry
        else:
            lines.append(line)
    return found, entry


def array_bytes(kind: str, shape: str) -> float:
    """Bytes of an array as the text writes it: `f32` and `8,128`."""
    return math.prod(map(int, filter(None, shape.split(",")))) * ITEM_BYTES.get(kind, 4)


def largest_arrays(hlo: str, count: int = 8) -> dict[str, int]:
    """Returns the largest arrays that the program stores, like `{"bf16[32,2048,768]": 100663296}`.

    Those inside fusions are left out: they are computed bit by bit and never exist.
    """
    found, _ = computations(hlo)
    fused = {name for lines in found.values() for line in lines for name in _FUSED.findall(line)}
    sizes: dict[str, int] = {}
    for name, lines in found.items():
        for line in lines if name not in fused else ():
            match = _RESULT.match(line)
            if match:
                sizes[f"{match[1]}[{match[2]}]"] = round(array_bytes(match[1], match[2]))
    return dict(sorted(sizes.items(), key=lambda item: -item[1])[:count])
