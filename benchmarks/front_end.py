"""Speed of the log-mel front end on the CPU, and its fraction of the FLOPs of a training step.

The speed is measured from packed int16 rows to patches. The fraction is counted for `slap_base`, with all objectives
and with the contrastive one alone.

Run: python benchmarks/front_end.py [--threads 2] > front_end.json
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

sys.path.append(str(Path(__file__).parent))  # tests import this file as part of a package

from machine import machine
from mixed_clips import COLUMN_SAMPLES, SAMPLE_RATE, MixedClip, mixed_clips

from slap_jax.config.defaults import default_config, patches_per_column
from slap_jax.training.flops import length_counts, train_step_parts


def counts_of(config: ConfigDict, clips: list[MixedClip]) -> dict[str, float]:
    """Returns the counts that the training step would report for a batch of these clips."""
    tokens = np.array([clip.columns * patches_per_column(config.audio) for clip in clips], float)
    words = np.array([len(clip.tokens) for clip in clips], float)
    return {
        "clips": float(len(clips)),
        **{name: float(count) for name, count in length_counts(config.model, tokens, words).items()},
    }


def fraction_of_flops(config: ConfigDict, clips: list[MixedClip]) -> float:
    """Returns the fraction of the useful FLOPs of a step that the front end takes."""
    parts = train_step_parts(config, counts_of(config, clips))
    return parts["front_end"] / sum(parts.values())


def speeds(config: ConfigDict, rows: int, columns: int, repeats: int) -> list[tuple[float, float]]:
    """Returns the seconds of audio (per second, per CPU second) of each repetition, on full rows of noise."""
    import jax

    from slap_jax.models import frontend

    generator = np.random.default_rng(0)
    waveform = (generator.standard_normal((rows, columns * COLUMN_SAMPLES)) * 3_000).astype(np.int16)
    segments = 1 + np.broadcast_to(np.arange(columns) // 38, (rows, columns)).astype(np.int32)  # clips of 6 s
    audio = config.audio

    @jax.jit
    def compute(waveform: Any, segments: Any) -> Any:
        return frontend.patches(frontend.normalise(frontend.log_mel(waveform, segments, audio), audio), audio)

    arguments = jax.device_put(waveform), jax.device_put(segments)
    jax.block_until_ready(compute(*arguments))
    seconds, results = rows * columns * COLUMN_SAMPLES / SAMPLE_RATE, []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(compute(*arguments))
        results.append((seconds / (time.perf_counter() - wall), seconds / (time.process_time() - cpu)))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="number of cores")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=20, help="repetitions; the median is reported")
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])  # before XLA counts the cores
    config = default_config()
    per_second, per_cpu_second = zip(*speeds(config, options.rows, options.columns, options.repeats), strict=True)
    contrastive = default_config()
    contrastive.objectives.distillation.weight = contrastive.objectives.captioning.weight = 0.0
    clips = mixed_clips(2_048, config.model.vocab_size)
    results = {
        "machine": machine("jax", "jaxlib"),
        "threads": options.threads,
        "audio_s_per_s": round(statistics.median(per_second)),
        "audio_s_per_cpu_s": round(statistics.median(per_cpu_second)),
        "share_of_step_flops": {
            "all_objectives": round(fraction_of_flops(config, clips), 5),
            "contrastive_alone": round(fraction_of_flops(contrastive, clips), 5),
        },
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
