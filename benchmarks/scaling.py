"""How cost grows with the amount of audio and with clip length, and compile time with depth (CPU, fp32).

    python benchmarks/scaling.py --output benchmarks/results/scaling.json

Three parts, each a table of CPU seconds:
    audio: embeds 30 s to 30 min of short clips (log-normal, 0.5 to 30 s) packed in rows of one length. All rows have
        the same number of tokens, so the cost should be a straight line through the origin.
    clip: embeds the same 30 min as 360 clips of 5 s up to one clip of 30 min, one clip per row. The cost of local
        layers does not depend on the length. Global layers attend to the whole clip, so they dominate beyond some
        length.
    depth: traces and compiles the training step with 12, 24 and 48 audio layers. Layers are scanned, so the time should
        not grow.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # tests import this file as part of a package

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from machine import machine
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch, batch_shapes
from slap_jax.config.defaults import default_config, patches_per_column, samples_per_column
from slap_jax.data.packing import Clip, pack_rows
from slap_jax.models.slap import Slap
from slap_jax.training.flops import audio_encoder_flops, length_counts
from slap_jax.training.optimizer import create_optimizer
from slap_jax.training.state import abstract_learner, create_state
from slap_jax.training.step import make_train_step

RATE = 16_000
ROW_COLUMNS = 192  # 30.72 s
TOTALS = (30, 60, 120, 300, 600, 1_800)
CLIP_LENGTHS = (5, 15, 30, 60, 300, 900, 1_800)
DEPTHS = (12, 24, 48)


def model_config(layers: int = 6) -> ConfigDict:
    """Returns a config with the 6 x 384 audio tower of the other benchmarks and a small text tower."""
    config = default_config()
    config.model.compute_dtype = "float32"
    config.model.audio_encoder.update(layers=layers, heads=6, width=384, mlp_width=1_024)
    config.model.text_encoder.update(layers=2, heads=6, width=384, mlp_width=1_024)
    config.objectives.distillation.weight = 0.0
    config.objectives.captioning.weight = 0.0
    config.data.slots = 16
    return config


def short_clips(seconds: float, generator: np.random.Generator) -> list[Clip]:
    """Returns clips of log-normal duration, 0.5 to 30 s with a mean of about 6 s, that add up to `seconds`."""
    clips, left = [], seconds
    while left > 0.5:
        duration = min(float(np.clip(generator.lognormal(np.log(4.5), 0.75), 0.5, 30.0)), left)
        clips.append(noise_clip(duration, generator))
        left -= duration
    return clips


def noise_clip(seconds: float, generator: np.random.Generator) -> Clip:
    waveform = (generator.standard_normal(round(seconds * RATE)) * 3_000).astype(np.int16)
    return Clip(waveform, [1, 2], key=0)


def embedding(config: ConfigDict, slots: int) -> tuple[Callable[..., Array], Any]:
    """Returns a jitted `embed(params, batch) -> [R, K, E]` and its parameters."""
    graph, params = nnx.split(Slap(config, rngs=nnx.Rngs(0)), nnx.Param)

    @jax.jit
    def embed(params: Any, batch: PackedBatch) -> Float[Array, "R K E"]:
        model = nnx.merge(graph, params)
        patches = model.audio_patches(batch.waveform, batch.audio_segment_ids)
        tokens = model.audio_tokens(patches, batch.audio_segment_ids, batch.audio_positions)
        return model.audio_embeddings(tokens, batch.audio_segment_ids, slots)

    return embed, params


def cpu_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Returns the shortest CPU time of `repeats` calls, summed over all threads, after a call that compiles."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(call())
        seconds.append(time.process_time() - start)
    return min(seconds)


def cost_of_audio(totals: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """Measures CPU seconds against seconds of audio in packed rows, and fits a line through the origin."""
    config = model_config()
    embed, params = embedding(config, config.data.slots)
    lines = []
    for total in totals:
        clips = short_clips(total, np.random.default_rng(total))
        batch, _ = pack_rows(clips, ROW_COLUMNS, config.data.slots, 64, samples_per_column(config.audio))
        batch = jax.device_put(batch)
        cost = cpu_seconds(lambda batch=batch: embed(params, batch), repeats)
        lines.append({"audio_s": total, "clips": len(clips), "rows": len(batch.clip_valid), "cpu_s": round(cost, 3)})
    audio, cost = (np.array([line[name] for line in lines], float) for name in ("audio_s", "cpu_s"))
    slope = float(audio @ cost / (audio @ audio))
    return {
        "lines": lines,
        "cpu_s_per_audio_s": round(slope, 5),
        "largest_deviation_from_the_line": round(float(np.max(np.abs(cost / (slope * audio) - 1))), 3),
    }


def cost_of_clip_length(lengths: tuple[int, ...], total: int, repeats: int) -> list[dict[str, float]]:
    """Measures CPU seconds and FLOPs for the same audio divided into clips of one length, one clip per row.

    The two ratios compare the cost per token with that of the shortest clips.
    """
    config = model_config()
    embed, params = embedding(config, 1)
    per_column, lines, shortest = samples_per_column(config.audio), [], None
    for length in lengths:
        columns = -(-length * RATE // per_column)
        generator = np.random.default_rng(length)
        clips = [noise_clip(length, generator) for _ in range(total // length)]
        batch, _ = pack_rows(clips, columns, 1, 8, per_column)
        batch = jax.device_put(batch)
        cost = cpu_seconds(lambda batch=batch: embed(params, batch), repeats)
        tokens = np.full(len(clips), columns * patches_per_column(config.audio))
        counts = length_counts(config.model, tokens, np.zeros_like(tokens))
        flops = audio_encoder_flops(config, counts)
        lines.append({"clip_s": length, "clips": len(clips), "cpu_s": round(cost, 3), "gflop": round(flops / 1e9, 1)})
        # The last column of a clip is padded, so short clips have a few more tokens in total.
        per_token = {"cpu_ratio": cost / counts["audio_tokens"], "flop_ratio": flops / counts["audio_tokens"]}
        shortest = shortest or per_token
        lines[-1] |= {name: round(value / shortest[name], 3) for name, value in per_token.items()}
    return lines


def cost_of_depth(depths: tuple[int, ...]) -> list[dict[str, float]]:
    """Measures the CPU time to trace and compile the contrastive training step, without a cache."""
    lines = []
    jax.config.update("jax_enable_compilation_cache", False)
    for depth in depths:
        config = model_config(depth)
        transform = create_optimizer(config.optimizer, config.train.steps)
        state = jax.eval_shape(lambda config=config, transform=transform: create_state(config, transform))
        data = config.data
        batch = batch_shapes(2, 64, data.slots, 64, samples_per_column(config.audio))
        step = make_train_step(config, abstract_learner(config), transform)
        start = time.process_time()
        lowered = jax.jit(step, donate_argnums=0).lower(state, batch)
        traced = time.process_time()
        lowered.compile()
        done = time.process_time()
        lines.append({"layers": depth, "trace_s": round(traced - start, 2), "compile_s": round(done - traced, 2)})
    for line in lines:
        line["compile_ratio_to_shallowest"] = round(line["compile_s"] / lines[0]["compile_s"], 3)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("depth", "audio", "clip"), help="run one part only")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    parts: dict[str, Callable[[], Any]] = {
        "depth": lambda: cost_of_depth(DEPTHS),
        "audio": lambda: cost_of_audio(TOTALS, options.repeats),
        "clip": lambda: cost_of_clip_length(CLIP_LENGTHS, CLIP_LENGTHS[-1], options.repeats),
    }
    result = {"machine": machine("jax", "jaxlib", "flax")}
    result |= {name: cost() for name, cost in parts.items() if options.only in (None, name)}
    text = json.dumps(result, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
