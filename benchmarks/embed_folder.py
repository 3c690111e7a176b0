"""Clips per second when embedding a folder of mixed durations on the CPU, compared with ClapModel of transformers.

The folder holds 44.1 kHz WAV files with log-normal durations of 0.5 to 30 s, 6 s on average. Both models get the paths
and do everything: decode, resample (soxr HQ), log-mel, audio tower, projection. They run in fp32 with random weights on
the same cores, after a first pass that compiles and allocates. They take turns in separate processes, and the median of
the rounds is reported. Our model has the sizes of `configs/slap_small.py`. The other is the audio tower of `ClapModel`
at the default sizes of transformers with the settings of laion/clap-htsat-unfused, in batches of 8. It repeats or cuts
clips to 10 s, so the rest of a longer clip costs it nothing.

Run: pip install -e '.[benchmarks]' && python benchmarks/embed_folder.py > embed_folder.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # tests import this file as part of a package

import numpy as np
import soundfile
from machine import machine
from mixed_clips import SAMPLE_RATE, mixed_clips

SIDES = ("slap_jax", "clap_model")
LIBRARIES = ("jax", "jaxlib", "flax", "torch", "transformers", "soxr")
FILE_RATE = 44_100

Embed = Callable[[Sequence[str]], np.ndarray]


def write_folder(folder: Path, count: int) -> list[float]:
    """Writes noise of mixed durations; returns the seconds of each file."""
    generator, seconds = np.random.default_rng(0), []
    for index, clip in enumerate(mixed_clips(count, vocabulary=40)):
        samples = round(len(clip.waveform) * FILE_RATE / SAMPLE_RATE)
        noise = (generator.standard_normal(samples) * 3_000).astype(np.int16)
        soundfile.write(folder / f"{index:05d}.wav", noise, FILE_RATE)
        seconds.append(clip.seconds)
    return seconds


def our_side() -> tuple[Embed, int]:
    """Returns our function that embeds files, and the number of parameters it uses."""
    from random_model import audio_parameters, random_model, small_config

    with tempfile.TemporaryDirectory() as folder:
        model = random_model(small_config(), Path(folder))
    return lambda paths: model.embed_audio(paths), audio_parameters(model)


def run_side(side: str, folder: Path, threads: int) -> dict[str, float]:
    """Measures one model in this process, on the first `threads` cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # before XLA counts the cores
    if side == "slap_jax":
        embed, parameters = our_side()
    else:
        from train_step_peers import clap_of_files

        embed, parameters = clap_of_files(threads)
    paths = [str(path) for path in sorted(folder.glob("*.wav"))]
    embed(paths)
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = embed(paths)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert len(vectors) == len(paths) and np.isfinite(vectors).all()
    return {"clips_per_s": len(paths) / wall, "clips_per_cpu_s": len(paths) / cpu, "parameters": parameters}


def summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Returns the medians of each model, and the ratios of our speed to that of ClapModel."""
    results: dict[str, Any] = {
        name: {side: round(statistics.median(one[side][name] for one in rounds), 2) for side in rounds[0]}
        for name in ("clips_per_s", "clips_per_cpu_s")
    }
    results["audio_parameters"] = {side: int(result["parameters"]) for side, result in rounds[0].items()}
    if len(rounds[0]) == len(SIDES):
        for name in ("clips_per_s", "clips_per_cpu_s"):
            ratios = [one["slap_jax"][name] / one["clap_model"][name] for one in rounds]
            results[f"{name}_to_clap_model"] = round(statistics.median(ratios), 2)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; the median is reported")
    parser.add_argument("--clips", type=int, default=96, help="number of files in the folder")
    parser.add_argument("--threads", type=int, default=2, help="number of cores for each model")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--one-side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_side:
        side, folder = options.one_side
        print(json.dumps(run_side(side, Path(folder), options.threads)))
        return

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "audio").mkdir()
        seconds = write_folder(Path(folder) / "audio", options.clips)
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(folder) / "programs"))

        def in_own_process(side: str) -> dict[str, float]:
            command = [
                sys.executable,
                __file__,
                "--threads",
                str(options.threads),
                "--one-side",
                side,
                f"{folder}/audio",
            ]
            run = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
            result = json.loads(run.stdout.splitlines()[-1])
            print(f"{side}: {result}", file=sys.stderr)
            return result

        rounds = [{side: in_own_process(side) for side in options.sides} for _ in range(options.rounds)]
    facts = {
        "clips": options.clips,
        "seconds_in_the_mean": round(statistics.mean(seconds), 2),
        "threads": options.threads,
        "rounds": options.rounds,
    }
    print(json.dumps({"machine": machine(*LIBRARIES), **facts, **summary(rounds)}, indent=2))


if __name__ == "__main__":
    main()
