"""How fast a step can be at best: what it must compute, move in memory and send, at the device's best rates.

Three times are compared: matrix products at the peak of their type, memory traffic at full bandwidth, collectives at
the full bandwidth of all links. Perfect overlap of the three is assumed, so the longest bounds the step from below and
no real step reaches it. What is computed comes from the traced program (see `program_costs`), for attention kernels
from the formulas of `slap_jax.training.flops`; what is useful from those formulas alone, as in training.

What one device must compute and move in a step, counted in the traced program: scans as often as they run.

The loss and its gradient are traced for the rows of one device, without a mesh, so that every shape is a device's own
(split by `tensor` it would be smaller still: `roofline` divides by that). Counted are the matrix products: their
FLOPs, padding and rematerialisation included, and the bytes of their operands and results, as if everything between
two products were fused into them. XLA's own `cost_analysis` counts a scan's body once and nothing in a kernel.
Kernels (Pallas) and loops of unknown length are only seen here: `roofline` adds what they compute.

Bytes of one device by kind: what the step is given, exact from shapes and shardings, and what it needs beside it.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params
from ml_collections import ConfigDict

from slap_jax.aot.topology import Chip, Topology
from slap_jax.config.defaults import columns_of, patches_per_column, samples_per_column
from slap_jax.training.flops import global_layers_of, length_counts, train_step_flops
from slap_jax.training.optimizer import create_optimizer
from slap_jax.training.state import abstract_learner, create_state, graph_of
from slap_jax.training.step import StepLoss, StepProgram, global_batch_shapes

# What an average batch is taken to hold. Fill: benchmarks/packing.py on a realistic mix of durations.
FILL = 0.99
CLIP_SECONDS = 10.0
CAPTION_TOKENS = 32

# The kernels' backward passes, one for queries and one for keys, each form the scores and their gradient again: seven
# products beside the forward pass's two.
KERNEL_BACKWARD = 3.5


def expected_counts(config: ConfigDict) -> dict[str, float]:
    """What an average batch holds, as `train_step_flops` takes it: equal clips of 10 s (or the longest allowed)."""
    data = config.data
    columns = min(columns_of(min(CLIP_SECONDS, data.max_seconds), config.audio), data.columns)
    per_row = min(FILL * data.columns / columns, float(data.slots))
    clips = data.rows * per_row
    audio = columns * patches_per_column(config.audio)
    text = min(float(CAPTION_TOKENS), data.max_caption_tokens, data.text_tokens / per_row)
    one_clip = length_counts(config.model, np.asarray(float(audio)), np.asarray(text))
    return {
        "clips": clips,
        **{name: clips * float(count) for name, count in one_clip.items()},
        "audio_seconds": clips * columns * samples_per_column(config.audio) / config.audio.sample_rate,
    }


def kernel_flops(
    config: ConfigDict, counts: Mapping[str, float], in_kernels: Sequence[str], twice: bool = False
) -> float:
    """FLOPs of the attention that the traced program does not show, forward and backward.

    Args:
        config: the whole configuration.
        counts: of the batch.
        in_kernels: kinds of calls that a kernel computes: of `ATTENTION_KINDS`.
        twice: whether rematerialisation runs the forward kernel a second time.
    """
    weights = {name: objective.weight for name, objective in config.objectives.items()}
    distillation, captioning = weights["distillation"] > 0, weights["captioning"] > 0
    plain = (weights["contrastive"] > 0 or captioning) and not (
        distillation and config.objectives.distillation.view == "shared"
    )
    trained = 1 + KERNEL_BACKWARD + twice
    audio_passes = trained * (plain + distillation) + distillation  # the last is the teacher's
    passes = {
        "audio_local": audio_passes,
        "audio_global": audio_passes,
        "text_local": trained * (weights["contrastive"] > 0),
        "text_global": trained * (weights["contrastive"] > 0),
        "decoder_self": trained * captioning,
        "decoder_cross": trained * captioning,
    }
    return sum(passes[kind] * attention_flops(config.model, counts, kind) for kind in in_kernels)


ATTENTION_KINDS = ("audio_local", "audio_global", "text_local", "text_global", "decoder_self", "decoder_cross")


def attention_flops(model: ConfigDict, counts: Mapping[str, float], kind: str) -> float:
    """One forward pass of one kind of attention call: scores and weighted values of the pairs that see each other."""
    audio, text, decoder = model.audio_encoder, model.text_encoder, model.caption_decoder
    audio_global, text_global = global_layers_of(audio), global_layers_of(text)
    audio_pairs, text_pairs = counts["audio_tokens_squared"], counts["text_tokens_squared"]
    layers, pairs, width = {
        "audio_local": (audio.layers - audio_global, counts["audio_local_pairs"], audio.width),
        "audio_global": (audio_global, audio_pairs, audio.width),
        "text_local": (text.layers - text_global, counts["text_local_pairs"], text.width),
        "text_global": (text_global, text_pairs, text.width),
        "decoder_self": (decoder.layers, (text_pairs + counts["text_tokens"]) / 2, decoder.width),
        "decoder_cross": (decoder.layers, counts["cross_tokens"], decoder.width),
    }[kind]
    return 4.0 * layers * pairs * width


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step at the best rates, and what they are made of; FLOPs of all devices together.

    Attributes:
        useful_flops: of `slap_jax.training.flops`.
        computed_flops: of the program, kernels included.
        recomputed_flops: the part of them that rematerialisation computes a second time.
        seconds: "compute", "memory", "links" and "network".
        peak_flops: of all devices.
    """

    useful_flops: float
    computed_flops: float
    recomputed_flops: float
    seconds: dict[str, float]
    peak_flops: float

    @property
    def limit(self) -> str:
        """Which of the times is the longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def step_seconds(self) -> float:
        """The bound."""
        return self.seconds[self.limit]

    @property
    def mfu(self) -> float:
        """Useful FLOPs over what the devices could do in the bound's time."""
        return self.useful_flops / (self.step_seconds * self.peak_flops)


@dataclasses.dataclass(frozen=True)
class Costs:
    """Sums over a program, for one device.

    Attributes:
        flops: of matrix products.
        seconds: that they take at the device's peak for their types and precision.
        bytes: of their operands and results, and of the kernels'.
        kernels: calls of Pallas kernels.
        open_loops: loops of unknown length that hold matrix products; those are not in the sums.
    """

    flops: float = 0.0
    seconds: float = 0.0
    bytes: float = 0.0
    kernels: float = 0.0
    open_loops: float = 0.0

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def times(self, count: float) -> "Costs":
        """The costs of running it several times."""
        return Costs(*(count * value for value in dataclasses.astuple(self)))


def roofline(
    config: ConfigDict,
    topology: Topology,
    costs: Costs,
    costs_without_remat: Costs,
    in_kernels: Sequence[str],
    tensor: int,
    state_bytes: Mapping[str, int],
    sent: tuple[float, float],
) -> Roofline:
    """Combines the counts.

    Args:
        config: the whole configuration.
        topology: the devices.
        costs: of the rows of one device.
        costs_without_remat: the same without rematerialisation.
        in_kernels: kinds of attention calls that the costs do not show.
        tensor: ways that share each row.
        state_bytes: of one device, by kind.
        sent: bytes that one device sends over the links and over the network.
    """
    chip, n_devices = topology.chip, topology.n_devices
    counts = expected_counts(config)
    attention = kernel_flops(config, counts, in_kernels, twice=costs.kernels > costs_without_remat.kernels)
    recomputed_attention = attention - kernel_flops(config, counts, in_kernels)
    # Where tensor ways share the rows, each does its part of them.
    scale = n_devices / tensor
    compute = costs.seconds / tensor + attention / (n_devices * chip.peak_flops)
    # State: read and written by the update; the gradient is written and read.
    state = 2 * (state_bytes["parameters"] + state_bytes["optimizer"] + state_bytes["teacher"])
    memory = costs.bytes / tensor + state + 2 * state_bytes["parameters"]
    seconds = {"compute": compute, "memory": memory / chip.hbm_bandwidth, "links": sent[0] / topology.sent_bandwidth}
    seconds["network"] = sent[1] / chip.network_bandwidth
    return Roofline(
        useful_flops=train_step_flops(config, counts),
        computed_flops=costs.flops * scale + attention,
        recomputed_flops=(costs.flops - costs_without_remat.flops) * scale + recomputed_attention,
        seconds=seconds,
        peak_flops=chip.peak_flops * n_devices,
    )


def gradient_costs(config: ConfigDict, rows: int, chip: Chip) -> Costs:
    """Counts the loss of some rows and its gradient; wrap it in `compiling_for`, so that kernels are the platform's.

    Args:
        config: the whole configuration.
        rows: of the device.
        chip: for the speed of each type.
    """
    loss, arguments = _loss_of_rows(config, rows)
    return count(jax.make_jaxpr(jax.grad(loss))(*arguments).jaxpr, chip)


def kept_for_backward(config: ConfigDict, rows: int) -> int:
    """Estimates the bytes that the forward pass of some rows keeps for the backward pass.

    The residuals of `jax.vjp`, as far as they grow with the rows: the others are parameters in another type. The
    compiler may keep less: what is cheap it may compute again.
    """
    return _residual_bytes(config, 2 * rows) - _residual_bytes(config, rows)


def _residual_bytes(config: ConfigDict, rows: int) -> int:
    loss, (params, *rest) = _loss_of_rows(config, rows)

    def residuals(params: Any, *rest: Any) -> list[Any]:
        _, pull = jax.vjp(lambda params: loss(params, *rest), params)
        return jax.tree.leaves(pull)

    found = jax.eval_shape(residuals, params, *rest)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in found)


def _loss_of_rows(config: ConfigDict, rows: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The loss as a function of parameters, teacher, batch and step, and their shapes for that many rows."""
    local = config.copy_and_resolve_references()
    local.data.rows = rows
    local.train.accumulate = 1
    transform = create_optimizer(local.optimizer, local.train.steps)
    state = jax.eval_shape(functools.partial(create_state, local, transform))
    graph = graph_of(abstract_learner(local))

    def scalar_loss(params: Any, teacher: Any, batch: Any, step: Any) -> Any:
        return StepLoss(local, graph, teacher, step)(params, batch)[0]

    return scalar_loss, (state.params, state.teacher, global_batch_shapes(local), state.step)


def count(jaxpr: Any, chip: Chip) -> Costs:
    """Counts a traced program and everything in it."""
    total = Costs()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _product(equation, chip)
            continue
        if name == "pallas_call":
            total += Costs(bytes=sum(map(_bytes, (*equation.invars, *equation.outvars))), kernels=1)
            continue
        inner = [count(getattr(sub, "jaxpr", sub), chip) for sub in jaxprs_in_params(equation.params)]
        if name == "scan":
            total += sum(inner, Costs()).times(equation.params["length"])
        elif name == "while":
            total += Costs(open_loops=float(any(costs.flops for costs in inner)))
        elif name == "cond":
            total += max(inner, key=lambda costs: costs.seconds)
        else:
            total += sum(inner, Costs())
    return total


def _product(equation: Any, chip: Chip) -> Costs:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, right = (variable.aval for variable in equation.invars)
    depth = math.prod(left.shape[axis] for axis in contracted)
    flops = 2.0 * math.prod(equation.outvars[0].aval.shape) * depth
    moved = sum(map(_bytes, (*equation.invars, *equation.outvars)))
    share = 1.0
    if left.dtype == right.dtype == jnp.float32:
        share = _fp32_share(equation.params["precision"], chip)
    return Costs(flops, flops / (share * chip.peak_flops), moved)


def _fp32_share(precision: Any, chip: Chip) -> float:
    """Speed of an fp32 product relative to bf16: by default TPUs round to bf16, and GPUs to TF32 at half the speed."""
    if isinstance(precision, tuple) and jax.lax.Precision.HIGHEST in precision:
        return chip.fp32_share
    return 1.0 if chip.platform == "tpu" else 0.5


def _bytes(variable: Any) -> float:
    aval = variable.aval
    return float(math.prod(aval.shape) * aval.dtype.itemsize) if hasattr(aval, "shape") else 0.0


_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)\s*([KMGT]?)(?:i?B)?"


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """What the compiler says of one device.

    Attributes:
        temporaries: everything that is neither argument nor result; None where the compiler does not tell.
        arguments: state and batch as they lie in memory, padding of their layout included; None as above.
        in_place: of the arguments, what results are written over: the donated state.
        code: the program itself.
        capacity: what the compiler would have allowed, where it told so.
        message: the first line of the compiler's refusal; "" if it compiled.
    """

    temporaries: int | None
    arguments: int | None = None
    in_place: int = 0
    code: int = 0
    capacity: int | None = None
    message: str = ""


def argument_bytes(program: StepProgram) -> dict[str, int]:
    """Bytes on each device of the state, by kind, and of the batch; the new state takes the place of the old one."""
    state = program.state
    return {
        "parameters": device_bytes(state.params),
        "optimizer": device_bytes(state.optimizer),
        "teacher": device_bytes(state.teacher),
        "batch": device_bytes(program.batch),
    }


def device_bytes(tree: Any) -> int:
    """Bytes on each device of arrays or of shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def compiled_memory(compiled: jax.stages.Compiled) -> StepMemory:
    """Reads a compiled step."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return StepMemory(None)
    # Results that are not written over an argument (metrics) lie beside the temporaries.
    added = max(analysis.output_size_in_bytes - analysis.alias_size_in_bytes, 0)
    return StepMemory(
        analysis.temp_size_in_bytes + added,
        analysis.argument_size_in_bytes,
        analysis.alias_size_in_bytes,
        analysis.generated_code_size_in_bytes,
    )


def out_of_memory(error: Exception) -> StepMemory | None:
    """Reads the compiler's refusal of a step that does not fit; None if the error is another one."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text and "out of memory" not in text.lower():
        return None
    first = text.strip().splitlines()[0]
    temporaries = _bytes_after(r"HLO temp(?:oraries)?[^\d(]*\(?\s*", text)
    if temporaries is None:  # "Used 21.5G of 15.75G hbm": arguments included
        temporaries = _bytes_after(r"[Uu]sed\s+", text)
    capacity = _bytes_after(r"available HBM \(", text) or _bytes_after(r"[Uu]sed\s+[\d.]+[KMGT]? of\s+", text)
    return StepMemory(temporaries, capacity=capacity, message=first)


def _bytes_after(before: str, text: str) -> int | None:
    match = re.search(before + _SIZE, text)
    return round(float(match[1]) * _UNITS[match[2]]) if match else None
