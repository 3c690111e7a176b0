"""Reads the HLO text of a compiled program: its collectives, and the arrays that it stores.

A collective in the body of a loop counts as often as the loop runs: by the trip count that XLA wrote next to it, or by
the constant that the loop's condition compares with. Loops without either count once and are reported.

Between TPU slices the compiler emits no collective but passes the data to the host, which sends them over the network.
They are named `network-all-reduce` and so on.
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
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_FUSED = re.compile(r" fusion\(.*\bcalls=%?([\w.\-]+)")
_RESULT = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (\w+)\[([\d,]+)\]")

_ITEM_BYTES: dict[str, float] = {
    **dict.fromkeys(("s4", "u4"), 0.5),
    **dict.fromkeys(("pred", "s8", "u8"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    "c128": 16,
}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction of the program.

    Attributes:
        kind: one of `KINDS`, prefixed with `network-` between slices.
        bytes: the larger of operand and result on one device.
        times: number of executions in a step.
        groups: devices that take part together, as positions in the mesh; at least the first few groups.
    """

    kind: str
    bytes: float
    times: int
    groups: tuple[tuple[int, ...], ...]

    @property
    def sent_bytes(self) -> float:
        """Returns the bytes that a device sends each time by the best algorithm for the kind (rings)."""
        size = max(map(len, self.groups), default=1)
        kind = self.kind.removeprefix(_NETWORK)
        fraction = {"all-reduce": 2 * (size - 1) / size, "collective-permute": 1.0}.get(kind, (size - 1) / size)
        return self.bytes * fraction


@dataclasses.dataclass(frozen=True)
class Collectives:
    """All collectives of a program, and the number of loops whose length the text does not state."""

    instructions: tuple[Collective, ...]
    unknown_loops: int

    def by_kind(self) -> dict[str, dict[str, float]]:
        """Returns kind -> number of executions in a step and the sum of their bytes on one device."""
        table: dict[str, dict[str, float]] = {}
        for collective in self.instructions:
            row = table.setdefault(collective.kind, {"count": 0, "bytes": 0})
            row["count"] += collective.times
            row["bytes"] += round(collective.bytes * collective.times)
        return dict(sorted(table.items()))

    def sent_bytes(self, islands: Sequence[int]) -> tuple[float, float]:
        """Returns the bytes that a device sends in a step over the fast links and over the network.

        Args:
            islands: for each position in the mesh, the number of its slice or host; the network connects islands.
        """
        links = network = 0.0
        for collective in self.instructions:
            sent = collective.sent_bytes * collective.times
            if any(len({islands[device] for device in group}) > 1 for group in collective.groups):
                network += sent
            else:
                links += sent
        return links, network


def find_collectives(hlo: str, n_devices: int, slices: int = 1) -> Collectives:
    """Finds the collectives in the text of a compiled program.

    Args:
        hlo: `compiled.as_text()`.
        n_devices: number of partitions of the program.
        slices: number of slices of a TPU topology; the devices of each slice are contiguous.
    """
    peers = tuple(range(0, n_devices, n_devices // slices))
    programs, entry = computations(hlo)
    times, unknown = _executions(programs, entry)
    # A collective that overlaps with other work is spread over several fusions, each with a copy of it.
    collectives: dict[tuple[object, ...], Collective] = {}
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
                size *= max(map(len, groups))  # the operand: the result is one part of it
            channel = re.search(r"channel_id=(\d+)", line)
            key = (kind, size, channel[1] if channel else match["name"])
            if key not in collectives or collectives[key].times < count:
                collectives[key] = Collective(kind, size, count, groups)
    return Collectives(tuple(collectives.values()), unknown)


def largest_arrays(hlo: str, count: int = 8) -> dict[str, int]:
    """Returns the largest arrays that the program stores, like `{"bf16[32,2048,768]": 100663296}`.

    Arrays inside fusions are excluded, because they never exist in memory as a whole.
    """
    programs, _ = computations(hlo)
    fused = {name for lines in programs.values() for line in lines for name in _FUSED.findall(line)}
    sizes: dict[str, int] = {}
    for name, lines in programs.items():
        for line in lines if name not in fused else ():
            match = _RESULT.match(line)
            if match:
                sizes[f"{match[1]}[{match[2]}]"] = round(array_bytes(match[1], match[2]))
    return dict(sorted(sizes.items(), key=lambda item: -item[1])[:count])


def computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of each computation by its name, and the name of the entry computation."""
    programs: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in hlo.splitlines():
        match = _COMPUTATION.match(line) if line and not line.startswith(" ") else None
        if match:
            lines = programs.setdefault(match["name"], [])
            entry = match["name"] if match["entry"] else entry
        else:
            lines.append(line)
    return programs, entry


def array_bytes(kind: str, shape: str) -> float:
    """Returns the bytes of an array whose dtype and shape are written as `f32` and `8,128`."""
    return math.prod(map(int, filter(None, shape.split(",")))) * _ITEM_BYTES.get(kind, 4)


def _executions(programs: dict[str, list[str]], entry: str) -> tuple[dict[str, int], int]:
    """Returns how often each computation runs in a step, and the number of loops of unknown length."""
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
    # `lax.scan` becomes a loop that counts up from zero by one.
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
        return "reduce-scatter"  # the form on TPUs
    return operation if operation in KINDS else None


def _bytes(result: str, operation: str) -> float:
    """Returns the bytes of the result; the tuple of a `-start` or `send` also holds operands and flags."""
    sizes = [array_bytes(kind, shape) for kind, shape in _ARRAY.findall(result)]
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
        devices = _transposed_iota(grid[3], grid[4])
        size = int(grid[2])
        return tuple(tuple(devices[i : i + size]) for i in range(0, len(devices), size))
    mesh = _MESH_GROUPS.search(line)
    if mesh:
        return _mesh_groups(*mesh.groups())
    return (tuple(range(n_devices)),)


def _transposed_iota(shape: str, order: str | None) -> list[int]:
    """Returns 0, 1, ... in an array of the shape, transposed to the order of axes and flattened."""
    sizes = list(map(int, shape.split(",")))
    axes = list(map(int, order.split(","))) if order else list(range(len(sizes)))
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    numbers = [0]
    for axis in axes:
        numbers = [number + step * strides[axis] for number in numbers for step in range(sizes[axis])]
    return numbers


def _mesh_groups(axes: str, shape: str | None, order: str | None, grouped: str) -> tuple[tuple[int, ...], ...]:
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    total = math.prod(sizes.values())
    devices = _transposed_iota(shape, order) if shape else list(range(total))
    together = set(re.findall(r"'([^']+)'", grouped))
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, device in enumerate(devices):
        key, rest = [], index
        for name, size in reversed(sizes.items()):
            rest, step = divmod(rest, size)
            if name not in together:
                key.append(step)
        groups[tuple(key)].append(device)
    return tuple(map(tuple, groups.values()))
