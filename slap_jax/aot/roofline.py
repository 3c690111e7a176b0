"""How fast a step can be at best: what it must compute, move in memory and send, at the device's best rates.

Three times are compared: matrix products at the peak of their type, memory traffic at full bandwidth, collectives at
the full bandwidth of all links. Perfect overlap of the three is assumed, so the longest bounds the step from below and
no real step reaches it. What is computed comes from the traced program (see `program_costs`), for attention kernels
from the formulas of `slap_jax.flops`; what is useful from those formulas alone, as in training.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from slap_jax.aot.program_costs import Costs
from slap_jax.aot.topology import Topology
from slap_jax.config import columns_of, patches_per_column, samples_per_column
from slap_jax.flops import global_layers_of, train_step_flops

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
    return {
        "clips": clips,
        "audio_tokens": clips * audio,
        "audio_tokens_squared": clips * audio**2,
        "text_tokens": clips * text,
        "text_tokens_squared": clips * text**2,
        "cross_tokens": clips * audio * text,
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
    audio_near = min(counts["audio_tokens"] * (2 * audio.local_window + 1), audio_pairs)
    text_near = min(counts["text_tokens"] * (2 * text.local_window + 1), text_pairs)
    layers, pairs, width = {
        "audio_local": (audio.layers - audio_global, audio_near, audio.width),
        "audio_global": (audio_global, audio_pairs, audio.width),
        "text_local": (text.layers - text_global, text_near, text.width),
        "text_global": (text_global, text_pairs, text.width),
        "decoder_self": (decoder.layers, (text_pairs + counts["text_tokens"]) / 2, decoder.width),
        "decoder_cross": (decoder.layers, counts["cross_tokens"], decoder.width),
    }[kind]
    return 4.0 * layers * pairs * width


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step at the best rates, and what they are made of; FLOPs of all devices together.

    Attributes:
        useful_flops: of `slap_jax.flops`.
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
