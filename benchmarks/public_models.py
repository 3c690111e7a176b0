"""Files per processor second when indexing a folder with a ClapModel, next to transformers' own processor and model.

The model has the default sizes of `ClapConfig`, those of laion/clap-htsat-unfused, and random weights. The folder holds
noise in WAV and FLAC at 44.1 and 48 kHz: four fifths of the files last 0.5 to 10 s, the others 10 to 30 s.

Our side is `slap index` as a whole: listing, hashing, decoding, resampling, features, the tower, and writing the index.
The other side decodes with transformers' `load_audio`, and runs `ClapProcessor` and `get_audio_features` on batches, in
inference mode. transformers reads a random 10 s of a longer recording, and the index holds windows of 10 s every 5 s,
so the other side gets the same windows as separate clips (`windows`). What it costs to read the random 10 s only is
measured too (`crops`). The other side embeds a fifth of the files, as its rate does not depend on their number, with
the batch size and the threads that are fastest for it on a sample, and with one thread of NumPy, which costs it less.
The zero-shot pipeline of transformers is measured on the sample too; it also embeds the labels for each file.

The sides run one after the other in separate processes. Processor seconds count all threads, after loading the model
and a first pass over a few files. The vectors of both sides are compared.

Run: pip install -e '.[benchmarks,search]' && python benchmarks/public_models.py > public_models.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # tests import this file as part of a package

import numpy as np
import soundfile
from machine import machine

LIBRARIES = ("torch", "transformers", "lancedb", "numpy", "soxr")
SETTINGS = [(1, 1), (4, 1), (16, 1), (4, 0)]  # batch and threads; 0 threads: PyTorch's default
WINDOW, HOP = 10.0, 5.0
LABELS = ["dog", "rain", "speech", "music", "engine"]


def write_folder(folder: Path, count: int) -> float:
    """Writes noise of mixed lengths and returns its duration in seconds."""
    random, total = np.random.default_rng(0), 0.0
    for index in range(count):
        seconds = random.uniform(10, 30) if index % 5 == 0 else random.uniform(0.5, 10)
        rate = (44_100, 48_000)[index % 2]
        noise = (random.standard_normal(round(seconds * rate)) * 2_000).astype(np.int16)
        soundfile.write(folder / f"{index:05d}.{('wav', 'flac')[index // 2 % 2]}", noise, rate)
        total += seconds
    return total


def measure(side: str, model: Path, folder: Path, count: int, batch: int, threads: int) -> dict[str, Any]:
    """Runs one side in this process on the first `count` files of the folder."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    files = sorted(map(str, folder.iterdir()))[:count]
    run = {"slap": _slap, "windows": _windows, "crops": _crops, "pipeline": _pipeline}[side](model, batch)
    run(files[: max(8, batch)])
    wall, processor = time.perf_counter(), time.process_time()
    vectors = run(files)
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    np.save(folder.parent / f"{side}.npy", vectors)
    return {
        "files": len(files),
        "processor_s": round(processor, 2),
        "wall_s": round(wall, 2),
        "files_per_processor_s": round(len(files) / processor, 3),
        **({"batch": batch, "threads": threads or "default"} if batch else {}),  # of the other side
    }


def _slap(folder: Path, batch: int) -> Any:
    """Indexes the files, and returns the vectors of their first windows."""
    from slap_jax.other_models.load import load_model
    from slap_jax.search.index import SearchIndex
    from slap_jax.search.search import search
    from slap_jax.search.update import update_index

    model = load_model(folder, device="cpu")

    def run(files: Sequence[str]) -> np.ndarray:
        with tempfile.TemporaryDirectory() as place:
            sounds = Path(place) / "sounds"
            sounds.mkdir()
            for file in files:
                (sounds / Path(file).name).symlink_to(file)
            update = update_index(model, sounds, Path(place) / "index", progress=False)
            assert update.embedded == len(files), update.bad
            index = SearchIndex(Path(place) / "index")
            assert search(model, index, "a dog barks", k=3)
            rows = index.windows.search().select(["content", "start", "vector"]).limit(None).to_arrow().to_pylist()
            first = {row["content"]: row["vector"] for row in rows if row["start"] == 0}
            return np.array([first[index.files[Path(file).name].content] for file in files], np.float32)

    return run


def _transformers(folder: Path) -> tuple[Any, Any, Any]:
    from transformers import ClapModel, ClapProcessor
    from transformers.audio_utils import load_audio

    return ClapModel.from_pretrained(folder).eval(), ClapProcessor.from_pretrained(folder), load_audio


def _windows(folder: Path, batch: int, cut: bool = True) -> Any:
    """Embeds the windows that the index holds, or with `cut=False` each file once; returns the first of each file."""
    import torch

    model, processor, load_audio = _transformers(folder)
    rate = processor.feature_extractor.sampling_rate

    def clips(files: Sequence[str]) -> Any:
        for file in files:
            samples = load_audio(file, sampling_rate=rate)
            last = max(0, -(-(len(samples) - round(WINDOW * rate)) // round(HOP * rate))) if cut else 0
            for number in range(last + 1):
                start = round(number * HOP * rate)
                yield number, samples[start : start + round(WINDOW * rate)] if cut else samples

    def run(files: Sequence[str]) -> np.ndarray:
        first, waiting = [], []

        def embed() -> None:
            inputs = processor(audio=[clip for _, clip in waiting], sampling_rate=rate, return_tensors="pt")
            with torch.inference_mode():
                vectors = model.get_audio_features(**inputs).pooler_output.numpy()
            first.extend(vector for (number, _), vector in zip(waiting, vectors, strict=True) if number == 0)
            waiting.clear()

        for item in clips(files):
            waiting.append(item)
            if len(waiting) == batch:
                embed()
        if waiting:
            embed()
        return np.array(first)

    return run


def _crops(folder: Path, batch: int) -> Any:
    return _windows(folder, batch, cut=False)


def _pipeline(folder: Path, batch: int) -> Any:
    """transformers' zero-shot pipeline on decoded files."""
    from transformers import ClapFeatureExtractor, RobertaTokenizer, pipeline

    model, processor, load_audio = _transformers(folder)
    classify = pipeline(
        "zero-shot-audio-classification",
        model=model,
        feature_extractor=ClapFeatureExtractor.from_pretrained(folder),
        tokenizer=RobertaTokenizer.from_pretrained(folder),
    )

    def run(files: Sequence[str]) -> np.ndarray:
        clips = (load_audio(file, sampling_rate=processor.feature_extractor.sampling_rate) for file in files)
        return np.array([classify(clip, candidate_labels=LABELS)[0]["score"] for clip in clips])

    return run


def main() -> None:
    """Measures both sides and prints JSON."""
    parser = argparse.ArgumentParser(description="Compares slap index with transformers' own ClapModel.")
    parser.add_argument("--files", type=int, default=1_000)
    parser.add_argument("--sample", type=int, default=40, help="files for choosing the other side's settings")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--side", nargs=5, metavar=("SIDE", "MODEL", "FOLDER", "BATCH", "THREADS"), help="internal")
    options = parser.parse_args()
    if options.side:
        side, model, folder, batch, threads = options.side
        print(json.dumps(measure(side, Path(model), Path(folder), options.files, int(batch), int(threads))))
        return
    from random_clap import save_random_clap

    with tempfile.TemporaryDirectory() as place:
        model, folder = save_random_clap(Path(place) / "model", tiny=options.tiny), Path(place) / "sounds"
        folder.mkdir()
        seconds = write_folder(folder, options.files)

        def run(side: str, files: int, batch: int = 0, threads: int = 0) -> dict[str, Any]:
            command = [sys.executable, __file__, "--files", str(files), "--side", side, str(model), str(folder)]
            # NumPy's threads wait for each other too: transformers' features cost less without them.
            environment = {**os.environ, **({"OPENBLAS_NUM_THREADS": "1"} if threads else {})}
            done = subprocess.run(
                [*command, str(batch), str(threads)], stdout=subprocess.PIPE, text=True, check=True, env=environment
            )
            print(side, done.stdout.splitlines()[-1], file=sys.stderr, flush=True)
            return json.loads(done.stdout.splitlines()[-1])

        # On a machine with other work, threads of one operation wait for each other: a few files tell.
        trials = [
            run("windows", options.sample if threads else max(1, options.sample // 4), batch, threads)
            for batch, threads in SETTINGS
        ]
        best = max(trials, key=lambda trial: trial["files_per_processor_s"])
        setting = best["batch"], 0 if best["threads"] == "default" else best["threads"]
        pipeline = run("pipeline", options.sample, 1, 1)
        ours, fifth = run("slap", options.files), max(1, options.files // 5)
        theirs = run("windows", fifth, *setting)
        difference = np.abs(np.load(Path(place) / "slap.npy")[:fifth] - np.load(Path(place) / "windows.npy")).max()
        crops = run("crops", fifth, *setting)
    result = {
        "machine": machine(*LIBRARIES),
        "files": options.files,
        "seconds_of_audio": round(seconds),
        "slap_index": ours,
        "transformers_same_windows": theirs,
        "transformers_random_10_s": crops,
        "ratio_same_windows": round(ours["files_per_processor_s"] / theirs["files_per_processor_s"], 2),
        "largest_difference_of_vectors": float(difference),
        "settings_tried": trials,
        "zero_shot_pipeline": pipeline,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
