"""FLOPs of a training step, from the config and the contents of the batch.

Following PaLM's definition of model FLOPs utilisation (Chowdhery et al. 2022, appendix B), these FLOPs count:

- matrix products only, 2 m n k each, and the front end's FFT; norms, softmax and similar operations are left out;
- useful work only: tokens of clips, not padding; pairs of tokens that may attend to each other, not masked ones;
- 3 x the forward pass for trained parts (two products of the same size backward), 1 x for the teacher and the front
  end, and nothing for rematerialisation.

So MFU rises with packing fill, and no backend can raise it by computing more. XLA's `cost_analysis` cannot be used: it
counts the body of a scan once and nothing inside a Pallas kernel.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from slap_jax.config.defaults import patches_per_column

# Dense bf16 FLOPs per second of one JAX device, from the vendors' data sheets (NVIDIA's figures without sparsity).
# On TPU v2, v3 and 7x a device is half a chip. Matched as prefixes of `device_kind`, the longest first.
PEAK_FLOPS = {
    "TPU v2": 23e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1_153.5e12,
    "NVIDIA A100": 312e12,
    "NVIDIA A10G": 70e12,
    "NVIDIA A10": 125e12,
    "NVIDIA B200": 2_250e12,
    "NVIDIA GB200": 2_500e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA V100": 125e12,
    "Tesla V100": 125e12,
    "Tesla T4": 65e12,
}


def train_step_flops(config: ConfigDict, counts: Mapping[str, float]) -> float:
    """Returns the useful FLOPs of one training step; see `train_step_parts`."""
    return sum(train_step_parts(config, counts).values())


def train_step_parts(
    config: ConfigDict, counts: Mapping[str, float], dense_attention: bool = False
) -> dict[str, float]:
    """Returns the useful FLOPs of one training step, forward and backward, by part.

    Args:
        config: the whole configuration; objectives of weight 0 cost nothing.
        counts: sums over the global batch, as the step's metrics give them: `clips`, `audio_tokens`, `text_tokens`,
            the sums over clips of the squared lengths (`audio_tokens_squared`, `text_tokens_squared`), of their product
            (`cross_tokens`), and of the pairs within a local window (`audio_local_pairs`, `text_local_pairs`).
        dense_attention: count all pairs in local and causal layers too, as a dense masked backend computes them.
    """
    weights = {name: objective.weight for name, objective in config.objectives.items()}
    contrastive, distillation, captioning, classification = (
        weights[name] > 0 for name in ("contrastive", "distillation", "captioning", "classification")
    )
    model = config.model
    audio_tokens, text_tokens, clips = counts["audio_tokens"], counts["text_tokens"], counts["clips"]
    audio_tower = audio_encoder_flops(config, counts, dense_attention)
    shared_view = distillation and config.objectives.distillation.view == "shared"
    plain_pass = (contrastive or captioning or classification) and not shared_view

    parts = {"front_end": front_end_flops(config.audio, audio_tokens)}
    parts["audio_encoder"] = 3 * audio_tower * (plain_pass + distillation)
    if contrastive:
        text_tower = text_encoder_flops(model, counts, dense_attention)
        pooling = pooling_flops(model.audio_encoder, audio_tokens, clips, model.embed_dim)
        pooling += pooling_flops(model.text_encoder, text_tokens, clips, model.embed_dim)
        parts["text_encoder"] = 3 * text_tower
        parts["pooling"] = 3 * pooling
        parts["contrastive"] = 3 * 2 * clips**2 * model.embed_dim
    if distillation:
        head = prototype_head_flops(config, audio_tokens)
        parts["teacher"] = audio_tower + head
        parts["prototype_head"] = 3 * head
    if captioning:
        parts["caption_decoder"] = 3 * caption_decoder_flops(model, counts, dense_attention)
    if classification:
        width, classes = model.audio_encoder.width, len(config.objectives.classification.classes)
        head = 2 * clips * width * classes
        if not contrastive:  # which has paid for the pooling
            head += pooling_flops(model.audio_encoder, audio_tokens, clips, embed_dim=0)
        parts["classification"] = 3 * head
    return parts


def length_counts(model: ConfigDict, audio: Any, text: Any) -> dict[str, Any]:
    """Returns the sums over clips that FLOPs are computed from, apart from `clips`; see `train_step_parts`.

    Args:
        model: `config.model`.
        audio: tokens of each clip, an array of any shape.
        text: tokens of each caption, in the same shape.
    """
    numpy = jnp if isinstance(audio, jax.Array) else np

    def local_pairs(tokens: Any, window: int) -> Any:
        # Pairs with |i - j| <= window among n tokens: n (2m + 1) - m (m + 1) with m = min(window, n - 1).
        m = numpy.clip(tokens - 1, 0, window)
        return tokens * (2 * m + 1) - m * (m + 1)

    return {
        "audio_tokens": numpy.sum(audio),
        "audio_tokens_squared": numpy.sum(audio**2),
        "audio_local_pairs": numpy.sum(local_pairs(audio, model.audio_encoder.local_window)),
        "text_tokens": numpy.sum(text),
        "text_tokens_squared": numpy.sum(text**2),
        "text_local_pairs": numpy.sum(local_pairs(text, model.text_encoder.local_window)),
        "cross_tokens": numpy.sum(audio * text),
    }


def front_end_flops(audio: ConfigDict, audio_tokens: float) -> float:
    """Returns the FLOPs of the log-mel; the DFT counts as a real FFT, 2.5 n log2 n, however it is computed."""
    frames = audio_tokens / patches_per_column(audio) * audio.frames_per_column
    return frames * (2.5 * audio.n_fft * math.log2(audio.n_fft) + 2 * (audio.n_fft // 2 + 1) * audio.mels)


def audio_encoder_flops(config: ConfigDict, counts: Mapping[str, float], dense_attention: bool = False) -> float:
    """Returns the FLOPs of one forward pass of the audio tower, from patches to dense features."""
    tower = config.model.audio_encoder
    values = config.audio.frames_per_column * config.audio.mels_per_patch
    tokens, squared = counts["audio_tokens"], counts["audio_tokens_squared"]
    local = squared if dense_attention else counts["audio_local_pairs"]
    return 2 * tokens * values * tower.width + _encoder_flops(tower, tokens, squared, local)


def text_encoder_flops(model: ConfigDict, counts: Mapping[str, float], dense_attention: bool = False) -> float:
    """Returns the FLOPs of one forward pass of the text tower; the embedding is a look-up and free."""
    squared = counts["text_tokens_squared"]
    local = squared if dense_attention else counts["text_local_pairs"]
    return _encoder_flops(model.text_encoder, counts["text_tokens"], squared, local)


def pooling_flops(tower: ConfigDict, tokens: float, clips: float, embed_dim: int) -> float:
    """Returns the FLOPs of one tower's attention pooling and projection.

    Each token costs its value, a score per head and its term of the weighted sum; each clip the output matrix, the MLP
    and the projection. The probe's own products do not depend on the tokens (see `AttentionPooling`).
    """
    width, heads, hidden = tower.width, tower.heads, tower.mlp_width
    per_token = 2 * width * width + 2 * width * heads + 2 * (width + heads)
    per_clip = 2 * width * width + 6 * width * hidden + 2 * width * embed_dim
    return tokens * per_token + clips * per_clip + 4 * width * width


def prototype_head_flops(config: ConfigDict, audio_tokens: float) -> float:
    """Returns the FLOPs of one forward pass of the prototype head over the masked tokens."""
    settings = config.objectives.distillation
    per_token = config.model.audio_encoder.width * settings.hidden + settings.hidden**2
    per_token += settings.hidden * settings.bottleneck + settings.bottleneck * settings.prototypes
    return 2 * settings.mask_ratio * audio_tokens * per_token


def caption_decoder_flops(model: ConfigDict, counts: Mapping[str, float], dense_attention: bool = False) -> float:
    """Returns the FLOPs of one teacher-forced forward pass of the caption decoder, logits included."""
    tower = model.caption_decoder
    width, text_tokens, audio_tokens = tower.width, counts["text_tokens"], counts["audio_tokens"]
    pairs = counts["text_tokens_squared"]
    causal_pairs = pairs if dense_attention else (pairs + text_tokens) / 2
    layer = _layer_flops(tower, text_tokens, causal_pairs)
    layer += 2 * text_tokens * 2 * width**2  # cross-attention: query and output
    layer += 2 * audio_tokens * 2 * width**2  # cross-attention: key and value
    layer += 4 * counts["cross_tokens"] * width
    memory = 2 * audio_tokens * model.audio_encoder.width * width
    return memory + tower.layers * layer + 2 * text_tokens * width * model.vocab_size


def global_layers_of(tower: ConfigDict) -> int:
    """Returns the number of global layers: one of each super-block, and ModernBERT's first."""
    return math.ceil(tower.layers / (tower.locals_per_global + 1))


def _encoder_flops(tower: ConfigDict, tokens: float, global_pairs: float, local_pairs: float) -> float:
    global_layers = global_layers_of(tower)
    return global_layers * _layer_flops(tower, tokens, global_pairs) + (tower.layers - global_layers) * _layer_flops(
        tower, tokens, local_pairs
    )


def _layer_flops(tower: ConfigDict, tokens: float, pairs: float) -> float:
    """Returns the FLOPs of the attention's four matrices, the gated MLP's three, the scores and the weighted values."""
    per_token = 4 * tower.width**2 + 3 * tower.width * tower.mlp_width
    return 2 * tokens * per_token + 4 * pairs * tower.width


def peak_flops(devices: Sequence[Any] | None = None, per_device: float = 0.0) -> float:
    """Returns the peak FLOPs per second of all devices together; 0 where it is unknown, and there is no MFU.

    Args:
        devices: default to all devices of the run.
        per_device: `config.train.peak_flops_per_device`; 0 looks the device up, or measures a CPU.
    """
    devices = list(jax.devices() if devices is None else devices)
    if per_device > 0:
        return per_device * len(devices)
    if devices[0].platform == "cpu":
        # The fake devices of one process share its cores, so they count as one machine.
        return measure_peak() * len({device.process_index for device in devices})
    kind = devices[0].device_kind
    names = sorted((name for name in PEAK_FLOPS if kind.startswith(name)), key=len)
    if not names:
        logging.warning("no peak FLOPs known for %r, so no MFU; set config.train.peak_flops_per_device", kind)
        return 0.0
    return PEAK_FLOPS[names[-1]] * len(devices)


def measure_peak(size: int = 1_024, repeats: int = 5) -> float:
    """Returns the FLOPs per second of a large fp32 matrix product on this process's CPU, the best of `repeats`."""
    device = jax.local_devices(backend="cpu")[0]
    matrix = jax.device_put(jnp.ones((size, size), jnp.float32), device)
    multiply = jax.jit(jnp.matmul)
    multiply(matrix, matrix).block_until_ready()  # compiles
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def format_parts(parts: Mapping[str, Any]) -> str:
    """Returns the parts of `train_step_parts` as lines with their shares."""
    total = sum(parts.values())
    lines = [f"{name:<16} {value / 1e12:12.4f} TFLOP  {value / max(total, 1.0):6.1%}" for name, value in parts.items()]
    return "\n".join([*lines, f"{'total':<16} {total / 1e12:12.4f} TFLOP"])
