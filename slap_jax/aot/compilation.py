"""`slap aot`: compiles the real training step for devices that are not attached, and reports what it needs.

`slap aot --find-max` searches for the largest number of rows that fits, in few compilations.
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

from slap_jax.aot.costs import Roofline, expected_counts, gradient_costs, residual_bytes, roofline
from slap_jax.aot.hlo import Collectives, find_collectives, largest_arrays
from slap_jax.aot.memory import StepMemory, argument_bytes, compiled_memory, out_of_memory
from slap_jax.aot.topology import Topology, described_devices, has_compiler, parse_topology
from slap_jax.config.defaults import mesh_sizes, patches_per_column
from slap_jax.config.rules import ConfigError
from slap_jax.config.validate import validate
from slap_jax.models.attention.dispatch import Choice, record_choices
from slap_jax.parallel.sharding import AXES, compiling_for, create_mesh
from slap_jax.training.step import step_program

NO_PLUGIN = "not compiled: the CUDA plug-in is missing (several GB, needs no GPU); run: pip install 'slap-jax[cuda12]'"
MOST_ROWS = 2**20  # that `find_max_rows` tries

# Attention backends whose products are not in the traced program: kernels, and loops whose length depends on the batch.
_NOT_TRACED = ("splash", "flash", "chunked")


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A step that was compiled, or that the compiler rejected for its size.

    Attributes:
        arguments: bytes of one device, by kind.
        memory: what the compiler reports.
        choices: attention backends.
        collectives: collectives of the program; None if it was rejected.
        arrays: the largest arrays that the program stores, with their bytes.
        seconds: duration of the compilation.
        trace_seconds: duration of tracing and lowering.
        mesh: mesh of the devices.
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
        """Returns the bytes of one device; None if the compiler does not report them."""
        if self.memory.temporaries is None:
            return None
        return (self.memory.arguments or sum(self.arguments.values())) + self.memory.temporaries + self.memory.code

    def fits(self, topology: Topology) -> bool:
        """Whether a device has room. The compiler for TPUs rejects what does not fit, the one for GPUs does not."""
        if self.memory.message or topology.platform == "tpu":
            return not self.memory.message
        return self.total is not None and self.total <= topology.chip.hbm_bytes


def report(config: ConfigDict, topology: str, *, log: Callable[[str], None] = logging.info) -> dict[str, Any]:
    """Compiles the training step for a topology and reports what it needs and how fast it can be.

    Args:
        config: the whole configuration, overrides applied.
        topology: like `v5e:4x4` or `h100:8`, see `parse_topology`.
        log: receives a line when something slow starts.

    Returns:
        What `slap aot --json` prints; docs/aot.md explains every key.

    Raises:
        TopologyError: there is no such topology, or the compiler for TPUs is not installed.
        ConfigError, AttentionError: the config is impossible on these devices.
    """
    target = parse_topology(topology)
    if target.platform == "gpu" and not has_compiler(target):
        return _report_without_compiler(config, target, log)
    compiled = compile_step(config, target, log)
    mesh_shape = dict(compiled.mesh.shape.items())
    sent_bytes = (0.0, 0.0)
    if compiled.collectives:
        sent_bytes = compiled.collectives.sent_bytes(network_islands(compiled.mesh, target))
    bound = _bound(config, target, mesh_shape, compiled.choices, compiled.arguments, sent_bytes, log)
    result = _facts(config, target, mesh_shape, compiled.choices, bound)
    result["fits"] = compiled.fits(target)
    result["bytes_per_device"] = _bytes_by_kind(compiled, _activation_bytes(config, target, mesh_shape))
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


def find_max_rows(config: ConfigDict, topology: str, log: Callable[[str], None]) -> int:
    """Returns the largest `config.data.rows` whose step fits; 0 if not even the smallest does.

    The rows are a multiple of the devices that share them, of `config.train.accumulate` and of
    `config.data.virtual_shards`.

    Raises:
        ConfigError: the topology's compiler is not installed.
        TopologyError: there is no such topology.
    """
    target = parse_topology(topology)
    if not has_compiler(target):
        raise ConfigError(
            f"--find-max compiles for {topology!r}, whose compiler is not installed; run slap aot without it for advice"
        )
    sizes = mesh_sizes(config.parallel, target.n_devices)
    step = row_multiple(config, dict(zip(AXES, sizes, strict=True)))

    def measure(n: int) -> tuple[bool, int | None]:
        attempt = config.copy_and_resolve_references()
        attempt.data.rows = n * step
        compiled = compile_step(attempt, target, lambda line: None)
        fits, total = compiled.fits(target), compiled.total
        size = "" if total is None else f", {total / 2**30:.2f} of {target.chip.hbm_bytes / 2**30:.2f} GiB"
        log(f"{attempt.data.rows} rows {'fit' if fits else 'do not fit'}{size} ({compiled.seconds:.0f} s to compile)")
        return fits, total

    start = max(1, config.data.rows // step)
    return step * largest_fitting(measure, start, target.chip.hbm_bytes, MOST_ROWS // step)


def compile_step(config: ConfigDict, topology: Topology, log: Callable[[str], None] = logging.info) -> CompiledStep:
    """Compiles the step; a step that does not fit is not an error."""
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
        rejected = out_of_memory(error)
        if rejected is None:
            raise
        memory, compiled = rejected, None
    seconds = time.perf_counter() - started
    if compiled is not None:
        text = compiled.as_text() or ""
        collectives = find_collectives(text, len(devices), topology.slices)
        arrays = largest_arrays(text)
    return CompiledStep(
        argument_bytes(program), memory, tuple(choices), collectives, arrays, seconds, trace_seconds, mesh
    )


def largest_fitting(measure: Callable[[int], tuple[bool, int | None]], start: int, capacity: int, limit: int) -> int:
    """Returns the largest n in 1 .. limit for which `measure(n)` fits; 0 if none does.

    Memory grows about linearly, so the line through two measurements predicts the next candidate. Where the line leaves
    the interval between the largest n that fits and the smallest that does not, the search bisects it.

    Args:
        measure: returns whether n fits, and its bytes if known.
        start: first n to try.
        capacity: capacity in bytes.
        limit: largest n to try.
    """
    known: dict[int, int] = {}
    fitting, failing = 0, limit + 1

    def attempt(n: int) -> None:
        nonlocal fitting, failing
        fits, size = measure(n)
        if size is not None:
            known[n] = size
        if fits:
            fitting = max(fitting, n)
        else:
            failing = min(failing, n)

    attempt(min(max(start, 1), limit))
    while failing - fitting > 1:
        middle = fitting * 2 if failing > limit and fitting else (fitting + failing) // 2
        attempt(min(max(_extrapolate(known, capacity, middle), fitting + 1), failing - 1))
    return fitting


def rows_of_a_device(config: ConfigDict, mesh_shape: dict[str, int]) -> int:
    """Returns the number of rows that a device computes at a time."""
    row_shards = mesh_shape["data"] * mesh_shape["fsdp"]
    return max(1, config.data.rows // (row_shards * config.train.accumulate))


def row_multiple(config: ConfigDict, mesh_shape: dict[str, int]) -> int:
    """Returns the number of which `config.data.rows` must be a multiple on a mesh."""
    row_shards = mesh_shape["data"] * mesh_shape["fsdp"]
    return math.lcm(row_shards * config.train.accumulate, config.data.virtual_shards)


def network_islands(mesh: Mesh, topology: Topology) -> list[int]:
    """Returns the slice or host of each position in the mesh; the network connects them."""
    if topology.platform == "gpu":
        return [device.process_index for device in mesh.devices.flat]
    return [getattr(device, "slice_index", 0) or 0 for device in mesh.devices.flat]


def _report_without_compiler(config: ConfigDict, topology: Topology, log: Callable[[str], None]) -> dict[str, Any]:
    """Reports what shapes and the traced program show."""
    validate(config, topology.shape[0], topology.n_devices)
    sizes = mesh_sizes(config.parallel, topology.n_devices)
    mesh = AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    arguments = argument_bytes(step_program(config, mesh))
    mesh_shape = dict(zip(AXES, sizes, strict=True))
    with record_choices() as choices:
        bound = _bound(config, topology, mesh_shape, None, arguments, (0.0, 0.0), log)
    result = _facts(config, topology, mesh_shape, choices, bound)
    activations = _activation_bytes(config, topology, mesh_shape)
    result["bytes_per_device"] = {**arguments, "activations": activations, "temporaries": None, "total": None}
    return result | {"reason": NO_PLUGIN}


def _facts(
    config: ConfigDict, topology: Topology, mesh_shape: dict[str, int], choices: Sequence[Choice], bound: Roofline
) -> dict[str, Any]:
    """Returns the report of a step that was not compiled."""
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


def _bound(
    config: ConfigDict,
    topology: Topology,
    mesh_shape: dict[str, int],
    choices: Sequence[Choice] | None,
    arguments: dict[str, int],
    sent_bytes: tuple[float, float],
    log: Callable[[str], None],
) -> Roofline:
    """Counts the costs of the step; `choices` None takes the attention backends of the traced program."""
    log("counting what the step computes")
    rows, parts = rows_of_a_device(config, mesh_shape), config.train.accumulate
    without_remat = config.copy_and_resolve_references()
    without_remat.model.remat = "none"
    with compiling_for(topology.platform), record_choices() as traced:
        costs = gradient_costs(config, rows, topology.chip)
        once = costs if config.model.remat == "none" else gradient_costs(without_remat, rows, topology.chip)
    if parts > 1:
        # GradCache runs the towers of each part twice, the first time without residuals.
        costs = costs.times(parts) + once.times(parts / 3)
        once = once.times(parts)
    kinds = _in_kernels(config, traced if choices is None else choices)
    return roofline(config, topology, costs, once, kinds, mesh_shape["tensor"], arguments, sent_bytes)


def _in_kernels(config: ConfigDict, choices: Sequence[Choice]) -> tuple[str, ...]:
    """Returns the attention kinds, by `roofline`'s names, whose products are not in the traced program."""
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


def _activation_bytes(config: ConfigDict, topology: Topology, mesh_shape: dict[str, int]) -> int:
    with compiling_for(topology.platform):
        return residual_bytes(config, rows_of_a_device(config, mesh_shape)) // mesh_shape["tensor"]


def _bytes_by_kind(compiled: CompiledStep, activations: int) -> dict[str, int | None]:
    """Splits the total into kinds. The estimated activations are capped at the compiler's temporaries."""
    temporaries, total = compiled.memory.temporaries, compiled.total
    if temporaries is None or total is None:
        return {**compiled.arguments, "activations": activations, "temporaries": None, "total": None}
    activations = min(activations, temporaries)
    rest = total - sum(compiled.arguments.values()) - activations
    return {**compiled.arguments, "activations": activations, "temporaries": rest, "total": total}


def _extrapolate(known: dict[int, int], capacity: int, default: int) -> int:
    """Returns the n at which the line through the two largest measurements reaches the capacity."""
    if len(known) < 2:
        return default
    (n1, size1), (n2, size2) = sorted(known.items())[-2:]
    if size2 <= size1:
        return default
    return int(n1 + (capacity - size1) * (n2 - n1) / (size2 - size1))
