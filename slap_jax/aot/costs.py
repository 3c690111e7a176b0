"""A lower bound on the time of a step: its computation, memory traffic and communication at the device's peak rates.

Four times are compared: matrix products at the peak of their dtype, memory traffic at full bandwidth, collectives at
the full bandwidth of all links, and at that of the network. The bound assumes that they overlap perfectly, so it is the
longest of them, and no real step reaches it.

The costs are counted in the traced program, because XLA's own `cost_analysis` counts the body of a scan once and
nothing inside a kernel. The loss and its gradient are traced for the rows of one device, without a mesh, so every shape
is that of one device; `roofline` divides by the tensor-parallel shards. Only matrix products are counted: their FLOPs,
including padding and rematerialisation, and the bytes of their operands and results, as if everything between two
products were fused into them. Pallas kernels and loops of unknown length are only detected. `roofline` adds the FLOPs
of the kernels by the formulas of `slap_jax.training.flops`, which also give the useful FLOPs.
"""

import dataclasses
import functools
import math
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
from slap_jax.training.step import StepLoss, global_batch_shapes

# The average batch. FILL: benchmarks/packing.py on a realistic mix of durations.
FILL = 0.99
CLIP_SECONDS = 10.0
CAPTION_TOKENS = 32

# The backward kernels, one for queries and one for keys, each recompute the scores and their cotangent: seven products
# against two in the forward kernel.
KERNEL_BACKWARD = 3.5

ATTENTION_KINDS = ("audio_local", "audio_global", "text_local", "text_global", "decoder_self", "decoder_cross")


@dataclasses.dataclass(frozen=True)
class Costs:
    """Sums over a program, for one device.

    Attributes:
        flops: FLOPs of the matrix products.
        seconds: duration of the matrix products at the device's peak for their dtypes and precision.
        bytes: bytes of their operands and results, and of those of kernels.
        kernels: number of calls of Pallas kernels.
        open_loops: number of loops of unknown length with matrix products, which the sums do not include.
    """

    flops: float = 0.0
    seconds: float = 0.0
    bytes: float = 0.0
    kernels: float = 0.0
    open_loops: float = 0.0

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def times(self, count: float) -> "Costs":
        """Returns the costs of `count` runs."""
        return Costs(*(count * value for value in dataclasses.astuple(self)))


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Lower bound on the seconds of a step, and its parts. FLOPs are those of all devices together.

    Attributes:
        useful_flops: useful FLOPs according to `slap_jax.training.flops`.
        computed_flops: FLOPs of the program, kernels included.
        recomputed_flops: the part of them due to rematerialisation.
        seconds: "compute", "memory", "links" and "network".
        peak_flops: peak FLOPs per second of all devices.
    """

    useful_flops: float
    computed_flops: float
    recomputed_flops: float
    seconds: dict[str, float]
    peak_flops: float

    @property
    def limit(self) -> str:
        """Returns which of the times is the longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def step_seconds(self) -> float:
        """Returns the bound."""
        return self.seconds[self.limit]

    @property
    def mfu(self) -> float:
        """Returns the useful FLOPs as a fraction of the devices' peak over the time of the bound."""
        return self.useful_flops / (self.step_seconds * self.peak_flops)


def roofline(
    config: ConfigDict,
    topology: Topology,
    costs: Costs,
    costs_without_remat: Costs,
    in_kernels: Sequence[str],
    tensor_shards: int,
    state_bytes: Mapping[str, int],
    sent_bytes: tuple[float, float],
) -> Roofline:
    """Combines the counts into the bound.

    Args:
        config: the whole configuration.
        topology: the devices.
        costs: costs of the rows of one device.
        costs_without_remat: the same without rematerialisation.
        in_kernels: the attention kinds that the costs do not include.
        tensor_shards: number of devices that share each row.
        state_bytes: bytes of the state on one device, by kind.
        sent_bytes: bytes that one device sends over the links and over the network.
    """
    chip, n_devices = topology.chip, topology.n_devices
    counts = expected_counts(config)
    attention = kernel_flops(config, counts, in_kernels, twice=costs.kernels > costs_without_remat.kernels)
    recomputed_attention = attention - kernel_flops(config, counts, in_kernels)
    row_groups = n_devices / tensor_shards
    # The update reads and writes the state; the gradient is written and read.
    state = 2 * (state_bytes["parameters"] + state_bytes["optimizer"] + state_bytes["teacher"])
    moved = costs.bytes / tensor_shards + state + 2 * state_bytes["parameters"]
    links, network = sent_bytes
    return Roofline(
        useful_flops=train_step_flops(config, counts),
        computed_flops=costs.flops * row_groups + attention,
        recomputed_flops=(costs.flops - costs_without_remat.flops) * row_groups + recomputed_attention,
        seconds={
            "compute": costs.seconds / tensor_shards + attention / (n_devices * chip.peak_flops),
            "memory": moved / chip.hbm_bandwidth,
            "links": links / topology.send_bandwidth,
            "network": network / chip.network_bandwidth,
        },
        peak_flops=chip.peak_flops * n_devices,
    )


def expected_counts(config: ConfigDict) -> dict[str, float]:
    """Returns the counts of an average batch for `train_step_flops`: equal clips of 10 s, or the longest allowed."""
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
    """Returns the FLOPs, forward and backward, of the attention that the traced program does not show.

    Args:
        config: the whole configuration.
        counts: counts of the batch.
        in_kernels: the members of `ATTENTION_KINDS` that a kernel computes.
        twice: whether rematerialisation runs the forward kernel a second time.
    """
    trains = {name: objective.weight > 0 for name, objective in config.objectives.items()}
    shared_view = trains["distillation"] and config.objectives.distillation.view == "shared"
    plain = (trains["contrastive"] or trains["captioning"] or trains["classification"]) and not shared_view
    student = 1 + KERNEL_BACKWARD + twice
    audio_passes = student * (plain + trains["distillation"]) + trains["distillation"]  # the last is the teacher's
    passes = {
        "audio_local": audio_passes,
        "audio_global": audio_passes,
        "text_local": student * trains["contrastive"],
        "text_global": student * trains["contrastive"],
        "decoder_self": student * trains["captioning"],
        "decoder_cross": student * trains["captioning"],
    }
    return sum(passes[kind] * attention_flops(config.model, counts, kind) for kind in in_kernels)


def attention_flops(model: ConfigDict, counts: Mapping[str, float], kind: str) -> float:
    """Returns the FLOPs of one forward pass of one attention kind: 4 x layers x pairs in the mask x width."""
    audio, text, decoder = model.audio_encoder, model.text_encoder, model.caption_decoder
    audio_global, text_global = global_layers_of(audio), global_layers_of(text)
    text_pairs = counts["text_tokens_squared"]
    layers, pairs, width = {
        "audio_local": (audio.layers - audio_global, counts["audio_local_pairs"], audio.width),
        "audio_global": (audio_global, counts["audio_tokens_squared"], audio.width),
        "text_local": (text.layers - text_global, counts["text_local_pairs"], text.width),
        "text_global": (text_global, text_pairs, text.width),
        "decoder_self": (decoder.layers, (text_pairs + counts["text_tokens"]) / 2, decoder.width),
        "decoder_cross": (decoder.layers, counts["cross_tokens"], decoder.width),
    }[kind]
    return 4.0 * layers * pairs * width


def gradient_costs(config: ConfigDict, rows: int, chip: Chip) -> Costs:
    """Counts the costs of the loss and its gradient; call it within `compiling_for` to trace the platform's kernels.

    Args:
        config: the whole configuration.
        rows: number of rows of one device.
        chip: for the speed of each dtype.
    """
    loss, arguments = loss_of_rows(config, rows)
    return program_costs(jax.make_jaxpr(jax.grad(loss))(*arguments).jaxpr, chip)


def residual_bytes(config: ConfigDict, rows: int) -> int:
    """Estimates the bytes that the forward pass of some rows keeps for the backward pass.

    These are the residuals of `jax.vjp` that grow with the rows; the others are parameters in another dtype. The
    compiler may keep less by recomputing what is cheap.
    """
    return _all_residual_bytes(config, 2 * rows) - _all_residual_bytes(config, rows)


def loss_of_rows(config: ConfigDict, rows: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Returns the loss as a function of (params, teacher, batch, step), and their shapes for that many rows."""
    local = config.copy_and_resolve_references()
    local.data.rows = rows
    local.train.accumulate = 1
    transform = create_optimizer(local.optimizer, local.train.steps)
    state = jax.eval_shape(functools.partial(create_state, local, transform))
    graph = graph_of(abstract_learner(local))

    def scalar_loss(params: Any, teacher: Any, batch: Any, step: Any) -> Any:
        return StepLoss(local, graph, teacher, step)(params, batch)[0]

    return scalar_loss, (state.params, state.teacher, global_batch_shapes(local), state.step)


def program_costs(jaxpr: Any, chip: Chip) -> Costs:
    """Counts a traced program, with scans as often as they run and the most expensive branch of conditionals."""
    total = Costs()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _product_costs(equation, chip)
            continue
        if name == "pallas_call":
            total += Costs(bytes=sum(map(_bytes, (*equation.invars, *equation.outvars))), kernels=1)
            continue
        inner = [program_costs(getattr(sub, "jaxpr", sub), chip) for sub in jaxprs_in_params(equation.params)]
        if name == "scan":
            total += sum(inner, Costs()).times(equation.params["length"])
        elif name == "while":
            total += Costs(open_loops=float(any(costs.flops for costs in inner)))
        elif name == "cond":
            total += max(inner, key=lambda costs: costs.seconds)
        else:
            total += sum(inner, Costs())
    return total


def _product_costs(equation: Any, chip: Chip) -> Costs:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, right = (variable.aval for variable in equation.invars)
    depth = math.prod(left.shape[axis] for axis in contracted)
    flops = 2.0 * math.prod(equation.outvars[0].aval.shape) * depth
    moved = sum(map(_bytes, (*equation.invars, *equation.outvars)))
    speed = 1.0
    if left.dtype == right.dtype == jnp.float32:
        speed = _fp32_speed(equation.params["precision"], chip)
    return Costs(flops, flops / (speed * chip.peak_flops), moved)


def _fp32_speed(precision: Any, chip: Chip) -> float:
    """Returns the speed of an fp32 product relative to bf16.

    At the default precision, TPUs round the operands to bf16, and GPUs to TF32 at half the speed.
    """
    if isinstance(precision, tuple) and jax.lax.Precision.HIGHEST in precision:
        return chip.fp32_fraction
    return 1.0 if chip.platform == "tpu" else 0.5


def _bytes(variable: Any) -> float:
    aval = variable.aval
    return float(math.prod(aval.shape) * aval.dtype.itemsize) if hasattr(aval, "shape") else 0.0


def _all_residual_bytes(config: ConfigDict, rows: int) -> int:
    loss, (params, *rest) = loss_of_rows(config, rows)

    def residuals(params: Any, *rest: Any) -> list[Any]:
        _, vjp = jax.vjp(lambda params: loss(params, *rest), params)
        return jax.tree.leaves(vjp)

    shapes = jax.eval_shape(residuals, params, *rest)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes)
