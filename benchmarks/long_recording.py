"""Memory and speed of embedding an hour-long recording and scoring it over time, compared with a clip of 30 s.

The recording is noise, and the model has random weights and the sizes of `configs/slap_small.py`. The peak resident
memory is read after a clip of 30 s, which compiles all programs, and after each job on the long recording. The
difference is the memory that the length costs.

Run: python benchmarks/long_recording.py > long_recording.json
"""

import argparse
import json
import os
import resource
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
from ml_collections import ConfigDict

JOBS = ("embed_audio", "windows", "scores", "frames")
TEXTS = ["a dog barks", "rain falls", "someone speaks"]


def write_noise(path: Path, seconds: float, rate: int = 44_100) -> None:
    """Writes a stereo FLAC file of noise, one minute at a time."""
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", rate, 2) as file:
        left = round(seconds * rate)
        while left:
            block = min(left, 60 * rate)
            file.write((generator.standard_normal((block, 2)) * 0.1).astype(np.float32))
            left -= block


def peak_mib() -> float:
    """Returns the peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024


def measure(config: ConfigDict, seconds: float, folder: Path, names: Sequence[str] = JOBS) -> dict[str, Any]:
    """Returns memory and time of each job on a recording of `seconds` length."""
    from random_model import random_model

    write_noise(folder / "clip.flac", min(30.0, seconds))
    write_noise(folder / "long.flac", seconds)
    model = random_model(config, folder)
    jobs: dict[str, Callable[[Path], Any]] = {
        "embed_audio": lambda path: model.embed_audio([path]),
        "windows": lambda path: model.windows(path),
        "scores": lambda path: model.scores(path, TEXTS),
        "frames": lambda path: model.frames(path),
    }
    for name in names:
        jobs[name](folder / "clip.flac")
    before = peak_mib()
    results: dict[str, Any] = {"peak_mib_after_a_clip": round(before)}
    for name in names:
        start = time.perf_counter()
        jobs[name](folder / "long.flac")
        wall = time.perf_counter() - start
        results[name] = {
            "more_mib": round(peak_mib() - before),
            "wall_s": round(wall, 1),
            "audio_s_per_s": round(seconds / wall, 1),
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3_600.0, help="length of the recording")
    parser.add_argument("--jobs", nargs="+", default=JOBS, choices=JOBS)
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    from random_model import small_config

    with tempfile.TemporaryDirectory() as folder:
        results = measure(small_config(), options.seconds, Path(folder), options.jobs)
    print(json.dumps({"machine": machine("jax", "jaxlib"), "seconds": options.seconds, **results}, indent=2))


if __name__ == "__main__":
    main()
