"""`slap aot`: the real training step compiled for devices that are not there, and what that tells before the run.

`slap aot --find-max`: the most rows per step that fit, in few compilations.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh
from ml_collections import ConfigDict

from slap_jax.aot.costs import (
    Roofline,
    StepMemory,
    argument_bytes,
    compiled_memory,
    expected_counts,
    gradient_costs,
    kept_for_backward,
    out_of_memory,
    roofline,
)
from slap_jax.aot.hlo import Collectives, find_collectives, largest_arrays
from slap_jax.aot.topology import Topology, described_devices, has_compiler, parse_topology
from slap_jax.config.defaults import mesh_sizes, patches_per_column
from slap_jax.config.rules import ConfigError
from slap_jax.config.validate import validate
from slap_jax.models.attention.dispatch import Choice, record_choices
from slap_jax.parallel.sharding import AXES, compiling_for, create_mesh
from slap_jax.training.step import step_program

NO_PLUGIN = "not compiled: the CUDA plug-in is missing (several GB, needs no GPU); run: pip install 'slap-jax[cuda12]'"

# What a kernel computes is not in the traced program; nor are loops whose length depends on the batch.
_NOT_TRACED = ("splash", "flash", "chunked")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A step that was compiled, or refused for its size.

    Attributes:
        arguments: bytes of a device, by kind.
        memory: what the compiler says.
        choices: attention backends.
        collectives: of the program; None if there is none.
        arrays: the largest that the program stores, and their bytes.
        seconds: that the compiler took.
        trace_seconds: that tracing and lowering took.
        mesh: of the devices.
    """

    arguments: dict[str, int]
    memory: StepMemory
    choices: tuple[Choice, ...]
    collectives: Collectives | None
    arrays: dict[str, int]
    seconds: float
    trace_seconds: float
    mesh: Mesh

    @property
    def total(self) -> int | None:
        """Bytes of a device."""
        if self.memory.temporaries is None:
            return None
        return (self.memory.arguments or sum(self.arguments.values())) + self.memory.temporaries + self.memory.code

    def fits(self, topology: Topology) -> bool:
        """Whether a device has room: the compiler for TPUs has refused what does not fit, the one for GPUs has not."""
        if self.memory.message or topology.platform == "tpu":
            return not self.memory.message
        return self.total is not None and self.total <= topology.chip.hbm_bytes


def report(config: ConfigDict, topology: str, *, log: Callable[[str], None] = logging.info) -> dict[str, Any]:
    """Compiles the training step for a topology and tells what it needs and how fast it can be.

    Args:
        config: the whole configuration, overrides applied.
        topology: like `v5e:4x4` or `h100:8`, see `parse_topology`.
        log: gets a line when something slow starts.

    Returns:
        What `slap aot --json` prints; docs/aot.md explains every key.

    Raises:
        TopologyError: it does not exist, or the compiler for TPUs is not installed.
        ConfigError, AttentionError: the config is impossible on these devices.
    """
    target = parse_topology(topology)
    if target.platform == "gpu" and not has_compiler(target):
        return _without_compiler(config, target, log)
    compiled = compile_step(config, target, log)
    sent = (0.0, 0.0)
    if compiled.collectives:
        sent = compiled.collectives.sent_bytes(_islands(compiled.mesh, target))
    mesh_shape = dict(compiled.mesh.shape.items())
    costs = _costs(config, target, mesh_shape, compiled.choices, compiled.arguments, sent, log)
    result = _facts(config, target, mesh_shape, compiled.choices, costs)
    result["fits"] = compiled.fits(target)
    result["bytes_per_device"] = _by_kind(compiled, _kept(config, target, mesh_shape))
    result["compile_seconds"] = round(compiled.seconds, 1)
    result["trace_seconds"] = round(compiled.trace_seconds, 1)
    if compiled.collectives:
        result["collectives"] = compiled.collectives.by_kind()
        result["loops_of_unknown_length"] = compiled.collectives.unknown_loops
        result["largest_arrays"] = compiled.arrays
        result["state_in_place_bytes"] = compiled.memory.in_place
    if compiled.memory.message:
        result["reason"] = compiled.memory.message
    elif not result["fits"]:
        result["reason"] = f"needs more than the {target.chip.hbm_bytes / 2**30:.2f} GiB that a program may use"
    return result


def compile_step(config: ConfigDict, topology: Topology, log: Callable[[str], None] = logging.info) -> Compiled:
    """Compiles the step; one that does not fit is no error."""
    devices = described_devices(topology)
    validate(config, len({device.process_index for device in devices}), len(devices))
    mesh = create_mesh(config.parallel, devices)
    started = time.perf_counter()
    with compiling_for(topology.platform), record_choices() as choices:
        program = step_program(config, mesh)
        lowered = program.traced.lower()
    trace_seconds = time.perf_counter() - started
    log(f"compiling {config.data.rows} rows of {config.data.columns} columns for {topology.name}")
    started = time.perf_counter()
    collectives, arrays = None, {}
    try:
        compiled = lowered.compile()
        memory = compiled_memory(compiled)
    except jax.errors.JaxRuntimeError as error:
        refused = out_of_memory(error)
        if refused is None:
            raise
        memory, compiled = refused, None
    seconds = time.perf_counter() - started
    if compiled is not None:
        text = compiled.as_text() or ""
        collectives = find_collectives(text, len(devices), topology.slices)
        arrays = largest_arrays(text)
    return Compiled(argument_bytes(program), memory, tuple(choices), collectives, arrays, seconds, trace_seconds, mesh)


def _without_compiler(config: ConfigDict, topology: Topology, log: Callable[[str], None]) -> dict[str, Any]:
    """What shapes and the traced program tell."""
    validate(config, topology.shape[0], topology.n_devices)
    sizes = mesh_sizes(config.parallel, topology.n_devices)
    mesh = AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    arguments = argument_bytes(step_program(config, mesh))
    mesh_shape = dict(zip(AXES, sizes, strict=True))
    with record_choices() as choices:
        costs = _costs(config, topology, mesh_shape, None, arguments, (0.0, 0.0), log)
    result = _facts(config, topology, mesh_shape, choices, costs)
    kept = _kept(config, topology, mesh_shape)
    result["bytes_per_device"] = {**arguments, "activations": kept, "temporaries": None, "total": None}
    return result | {"reason": NO_PLUGIN}


def _facts(
    config: ConfigDict, topology: Topology, mesh_shape: dict[str, int], choices: Sequence[Choice], bound: Roofline
) -> dict[str, Any]:
    """The report of a step of which nothing is compiled yet."""
    counts = expected_counts(config)
    return {
        "topology": topology.name,
        "n_devices": topology.n_devices,
        "device_kind": topology.chip.device_kind,
        "mesh": mesh_shape,
        "rows": config.data.rows,
        "clips": round(counts["clips"]),
        "fits": None,
        "bytes_per_device": {},
        "hbm_bytes": topology.chip.hbm_bytes,
        "flops_per_step": bound.useful_flops,
        "flops_per_audio_second": bound.useful_flops / counts["audio_seconds"],
        "computed_flops_per_step": bound.computed_flops,
        "recomputed_flops_per_step": bound.recomputed_flops,
        "collectives": None,
        "attention": {f"{c.kind} {c.q_length}x{c.kv_length}": c.backend for c in choices},
        "compile_seconds": None,
        "bound_step_seconds": bound.step_seconds,
        "bound_mfu": bound.mfu,
        "bound_by": bound.limit,
        "bound_parts_seconds": bound.seconds,
        "bound_audio_seconds_per_second": counts["audio_seconds"] / bound.step_seconds,
        "flops_source": "slap_jax.training.flops (useful), the traced program with scans multiplied out (computed)",
    }


def rows_of_a_device(config: ConfigDict, mesh_shape: dict[str, int]) -> int:
    """Rows that a device computes at a time."""
    ways = mesh_shape["data"] * mesh_shape["fsdp"]
    return max(1, config.data.rows // (ways * config.train.accumulate))


def _costs(
    config: ConfigDict,
    topology: Topology,
    mesh_shape: dict[str, int],
    choices: Sequence[Choice] | None,
    arguments: dict[str, int],
    sent: tuple[float, float],
    log: Callable[[str], None],
) -> Roofline:
    log("counting what the step computes")
    rows, parts = rows_of_a_device(config, mesh_shape), config.train.accumulate
    plain = config.copy_and_resolve_references()
    plain.model.remat = "none"
    with compiling_for(topology.platform), record_choices() as local:
        costs = gradient_costs(config, rows, topology.chip)
        once = costs if config.model.remat == "none" else gradient_costs(plain, rows, topology.chip)
    if parts > 1:
        # Each part's towers are run twice, the first time without keeping anything.
        forward = once.times(1 / 3)
        costs = costs.times(parts) + forward.times(parts)
        once = once.times(parts)
    kinds = _in_kernels(config, local if choices is None else choices)
    return roofline(config, topology, costs, once, kinds, mesh_shape["tensor"], arguments, sent)


def _in_kernels(config: ConfigDict, choices: Sequence[Choice]) -> tuple[str, ...]:
    """The kinds of attention calls, as `roofline` names them, whose products are not in the traced program."""
    audio = config.data.columns * patches_per_column(config.audio)
    text = config.data.text_tokens
    calls = {
        "audio_local": ("local", audio, audio),
        "audio_global": ("global", audio, audio),
        "text_local": ("local", text, text),
        "text_global": ("global", text, text),
        "decoder_self": ("causal", text, text),
        "decoder_cross": ("cross", text, audio),
    }
    hidden = {(c.kind, c.q_length, c.kv_length) for c in choices if c.backend in _NOT_TRACED}
    return tuple(kind for kind, call in calls.items() if call in hidden)


def _kept(config: ConfigDict, topology: Topology, mesh_shape: dict[str, int]) -> int:
    with compiling_for(topology.platform):
        return kept_for_backward(config, rows_of_a_device(config, mesh_shape)) // mesh_shape["tensor"]


def _by_kind(compiled: Compiled, kept: int) -> dict[str, int | None]:
    """Kinds add up to the total: activations are the estimate, as far as the compiler has that many temporaries."""
    temporaries, total = compiled.memory.temporaries, compiled.total
    if temporaries is None or total is None:
        return {**compiled.arguments, "activations": kept, "temporaries": None, "total": None}
    activations = min(kept, temporaries)
    rest = total - sum(compiled.arguments.values()) - activations
    return {**compiled.arguments, "activations": activations, "temporaries": rest, "total": total}


def _islands(mesh: Mesh, topology: Topology) -> list[int]:
    """The slice or host of every place in the mesh: between them lies the network."""
    if topology.platform == "gpu":
        return [device.process_index for device in mesh.devices.flat]
    return [getattr(device, "slice_index", 0) or 0 for device in mesh.devices.flat]


def row_step(config: ConfigDict, mesh_shape: dict[str, int]) -> int:
    """The number of which `config.data.rows` must be a multiple on a mesh."""
    ways = mesh_shape["data"] * mesh_shape["fsdp"] * config.train.accumulate
    return math.lcm(ways, config.data.virtual_shards)


LIMIT = 2**20


def find_max_rows(config: ConfigDict, topology: str, log: Callable[[str], None]) -> int:
    """Returns the largest `config.data.rows` whose step fits, 0 if not even the smallest does.

    Rows are a multiple of the devices that share them, of `config.train.accumulate` parts and of
    `config.data.virtual_shards`.

    Raises:
        ConfigError: the topology's compiler is missing.
        TopologyError: the topology does not exist.
    """
    target = parse_topology(topology)
    if not has_compiler(target):
        raise ConfigError(f"--find-max compiles for {topology!r}, whose compiler is missing; see slap aot without it")
    sizes = mesh_sizes(config.parallel, target.n_devices)
    step = row_step(config, dict(zip(AXES, sizes, strict=True)))

    def bytes_of(multiple: int) -> tuple[bool, int | None]:
        tried = config.copy_and_resolve_references()
        tried.data.rows = multiple * step
        compiled = compile_step(tried, target, lambda line: None)
        fits = compiled.fits(target)
        total = compiled.total
        size = "" if total is None else f", {total / 2**30:.2f} of {target.chip.hbm_bytes / 2**30:.2f} GiB"
        log(f"{tried.data.rows} rows {'fit' if fits else 'do not fit'}{size} ({compiled.seconds:.0f} s to compile)")
        return fits, total

    start = max(1, config.data.rows // step)
    return step * largest_fitting(bytes_of, start, target.chip.hbm_bytes, LIMIT // step)


def largest_fitting(measure: Callable[[int], tuple[bool, int | None]], start: int, capacity: int, limit: int) -> int:
    """Returns the largest n in 1 .. limit for which `measure(n)` fits, 0 if none does.

    Memory grows about linearly, so the line through two measurements names the next candidate; between what fits and
    what does not, it halves the interval where the line leads out of it.

    Args:
        measure: of n: whether it fits, and its bytes where they are known.
        start: first n.
        capacity: bytes.
        limit: the largest n to try.
    """
    known: dict[int, int] = {}
    fitting, failing = 0, limit + 1

    def tried(n: int) -> None:
        nonlocal fitting, failing
        fits, size = measure(n)
        if size is not None:
            known[n] = size
        if fits:
            fitting = max(fitting, n)
        else:
            failing = min(failing, n)

    tried(min(max(start, 1), limit))
    while failing - fitting > 1:
        middle = fitting * 2 if failing > limit and fitting else (fitting + failing) // 2
        tried(min(max(_line(known, capacity, middle), fitting + 1), failing - 1))
    return fitting


def _line(known: dict[int, int], capacity: int, otherwise: int) -> int:
    """The n at which the line through the two largest measurements reaches the capacity."""
    if len(known) < 2:
        return otherwise
    (n1, size1), (n2, size2) = sorted(known.items())[-2:]
    if size2 <= size1:
        return otherwise
    return int(n1 + (capacity - size1) * (n2 - n1) / (size2 - size1))
