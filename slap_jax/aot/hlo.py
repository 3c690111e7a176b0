"""The collectives of a compiled program, from its HLO text: how many run in a step, and what each device hands over.

A collective in the body of a loop is counted as often as the loop runs: by the trip count that XLA wrote beside it, or
by the constant that the loop's condition compares with. Loops without either count once and are reported.

Between TPU slices the compiler writes no collective but hands the data to the host, which sends it over the network:
these are called `network-all-reduce` and so on.

The text of a compiled program: its computations, and the arrays that it stores.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Sequence

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
)
_NETWORK = "network-"
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<result>.*?) (?P<operation>[a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_LIMIT = re.compile(r"compare\([^)]*\), direction=LT")
_MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
_CONSTANT = re.compile(r"= [su]32\[\]\S* constant\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction of the program.

    Attributes:
        kind: one of `KINDS`, with `network-` before it between slices.
        bytes: the larger of what one device puts in and what it gets.
        times: it runs in a step.
        groups: devices that take part together, as places in the mesh; of the first few groups at least.
    """

    kind: str
    bytes: float
    times: int
    groups: tuple[tuple[int, ...], ...]

    @property
    def sent_bytes(self) -> float:
        """What a device must send at least each time, by the best algorithm for the kind (rings)."""
        size = max(map(len, self.groups), default=1)
        kind = self.kind.removeprefix(_NETWORK)
        share = {"all-reduce": 2 * (size - 1) / size, "collective-permute": 1.0}.get(kind, (size - 1) / size)
        return self.bytes * share


@dataclasses.dataclass(frozen=True)
class Collectives:
    """All of them, and the loops whose length is not written in the program."""

    instructions: tuple[Collective, ...]
    unknown_loops: int

    def by_kind(self) -> dict[str, dict[str, float]]:
        """Kind -> how many run in a step, and the bytes that each device hands over or receives in all of them."""
        table: dict[str, dict[str, float]] = {}
        for one in self.instructions:
            row = table.setdefault(one.kind, {"count": 0, "bytes": 0})
            row["count"] += one.times
            row["bytes"] += round(one.bytes * one.times)
        return dict(sorted(table.items()))

    def sent_bytes(self, slow: Sequence[int]) -> tuple[float, float]:
        """What a device sends over the fast links, and over the network, in a step.

        Args:
            slow: for each place in the mesh, which slice or host it is in; between two of them lies the network.
        """
        fast_bytes = slow_bytes = 0.0
        for one in self.instructions:
            crosses = any(len({slow[place] for place in group}) > 1 for group in one.groups)
            if crosses:
                slow_bytes += one.sent_bytes * one.times
            else:
                fast_bytes += one.sent_bytes * one.times
        return fast_bytes, slow_bytes


def find_collectives(hlo: str, n_devices: int, slices: int = 1) -> Collectives:
    """Reads the text of a compiled program.

    Args:
        hlo: `compiled.as_text()`.
        n_devices: partitions of the program.
        slices: of a TPU topology; the devices of one follow those of the other.
    """
    peers = tuple(range(0, n_devices, n_devices // slices))
    programs, entry = computations(hlo)
    times, unknown = _runs(programs, entry)
    # A collective that runs beside other work is spread over several fusions, each with a copy of it.
    found: dict[tuple[object, ...], Collective] = {}
    for computation, lines in programs.items():
        count = times.get(computation, 0)
        if not count:
            continue
        for line in lines:
            match = _INSTRUCTION.match(line)
            kind = match and _kind(match["operation"], computation, line)
            if not match or not kind:
                continue
            groups = (peers,) if kind.startswith(_NETWORK) else _groups(line, n_devices)
            size = _bytes(match["result"], match["operation"])
            if match["operation"].startswith("reduce-scatter"):
                size *= max(map(len, groups))  # of which the result is one part
            channel = re.search(r"channel_id=(\d+)", line)
            key = (kind, size, channel[1] if channel else match["name"])
            if key not in found or found[key].times < count:
                found[key] = Collective(kind, size, count, groups)
    return Collectives(tuple(found.values()), unknown)


def _runs(programs: dict[str, list[str]], entry: str) -> tuple[dict[str, int], int]:
    """How often each computation runs in a step, and how many loops have no length."""
    calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
    unknown: set[str] = set()
    for computation, lines in programs.items():
        for line in lines:
            called = _CALLED.findall(line)
            for branches in _BRANCHES.findall(line):
                called += re.findall(r"[\w.\-]+", branches)
            if not called:
                continue
            count = 1
            if " while(" in line:
                length = _loop_length(line, programs)
                if length is None:
                    unknown.add(line)
                count = 1 if length is None else length
            calls[computation] += [(name, count) for name in called if name in programs]
    times: dict[str, int] = defaultdict(int)

    def visit(computation: str, count: int) -> None:
        times[computation] += count
        for name, repeats in calls[computation]:
            visit(name, count * repeats)

    visit(entry, 1)
    return times, len(unknown)


def _loop_length(line: str, programs: dict[str, list[str]]) -> int | None:
    known = _TRIP_COUNT.search(line)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    lines = programs.get(condition[1], []) if condition else []
    # Every loop of ours counts up from zero by one: XLA's text for `lax.scan`.
    if not any(_LIMIT.search(text) for text in lines):
        return None
    constants = [int(number) for text in lines for number in _CONSTANT.findall(text)]
    return constants[0] if len(constants) == 1 else None


def _kind(operation: str, computation: str, line: str) -> str | None:
    if operation == "send":
        transfer = _TRANSFER.search(line)
        return _NETWORK + transfer[1].lower().replace("_", "-") if transfer else None
    operation = operation.removesuffix("-start")
    if operation == "all-reduce" and computation.startswith("all-reduce-scatter"):
        return "reduce-scatter"  # how TPUs write one
    return operation if operation in KINDS else None


def _bytes(result: str, operation: str) -> float:
    """Of the result; a `-start` or `send` returns its operands and flags too."""
    sizes = [array_bytes(kind, shape) for kind, shape in ARRAY.findall(result)]
    if operation == "send" or (operation.endswith("-start") and operation != "all-reduce-start"):
        return max(sizes, default=0)
    return sum(sizes)


def _groups(line: str, n_devices: int) -> tuple[tuple[int, ...], ...]:
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", line)
    if pairs:
        return tuple((int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1]))
    listed = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)+)\}", line)
    if listed:
        return tuple(tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", listed[1]))
    grid = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if grid:
        places = _laid_out(grid[3], grid[4])
        size = int(grid[2])
        return tuple(tuple(places[i : i + size]) for i in range(0, len(places), size))
    mesh = _MESH_GROUPS.search(line)
    if mesh:
        return _mesh_groups(*mesh.groups())
    return (tuple(range(n_devices)),)


def _laid_out(shape: str, order: str | None) -> list[int]:
    """The numbers 0, 1, ... in an array of the shape, read after its axes were put in another order."""
    sizes = list(map(int, shape.split(",")))
    axes = list(map(int, order.split(","))) if order else list(range(len(sizes)))
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    places = [0]
    for axis in axes:
        places = [place + step * strides[axis] for place in places for step in range(sizes[axis])]
    return places


def _mesh_groups(axes: str, shape: str | None, order: str | None, grouped: str) -> tuple[tuple[int, ...], ...]:
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    total = math.prod(sizes.values())
    places = _laid_out(shape, order) if shape else list(range(total))
    together = set(re.findall(r"'([^']+)'", grouped))
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, place in enumerate(places):
        key, rest = [], index
        for name, size in reversed(sizes.items()):
            rest, step = divmod(rest, size)
            if name not in together:
                key.append(step)
        groups[tuple(key)].append(place)
    return tuple(map(tuple, groups.values()))


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
