"""Data pipeline with a million records: time to start and resume, memory of the reader, and range of the shuffle.

The records are 500 different short sounds under a million ids. Each measurement runs in a separate process.

Run: python benchmarks/million_records.py [--directory DIR] > million_records.json
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from ml_collections import ConfigDict

from slap_jax.config.defaults import default_config, source
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.batches.rows import open_sources, planned_rows
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import Record, make_record
from slap_jax.data.tokenizer import load_tokenizer, train_tokenizer

SOUNDS = 500
WORDS = ("low", "high", "soft", "loud", "short", "long", "tone", "buzz", "click", "hum")


def sounds() -> list[Record]:
    """Returns encoded noises of 0.05 to 0.3 s, all different."""
    generator = np.random.default_rng(0)
    encoded = []
    for number in range(SOUNDS):
        samples = generator.normal(0, 400, int(generator.integers(800, 4_800))).astype(np.int16)
        words = " ".join(generator.choice(WORDS, 5))
        encoded.append(make_record(str(number), samples, [f"{words} {number}"], source="benchmark"))
    return encoded


def records(count: int) -> Iterator[Record]:
    """Yields `count` records that repeat the sounds in turn, each with a new id."""
    encoded = sounds()
    for number in range(count):
        yield dataclasses.replace(encoded[number % SOUNDS], id=str(number))


def set_up(directory: Path, count: int) -> float:
    """Writes records and tokenizer unless they exist; returns the time in seconds."""
    start = time.perf_counter()
    inputs = {"million_records": count, "sounds": SOUNDS}
    prepare_records({"train": (count, records(count))}, directory / "records", inputs, lambda line: None)
    if not (directory / "tokenizer.model").exists():
        captions = [caption for record in sounds() for caption in record.captions]
        train_tokenizer(captions, directory / "tokenizer.model", 500)
    return time.perf_counter() - start


def benchmark_config(directory: Path) -> ConfigDict:
    """Returns a config with rows of 10 s; a batch holds about 2,000 of these short clips."""
    config = default_config()
    config.data.train.clips = source(str(directory / "records"), "train")
    config.data.tokenizer = str(directory / "tokenizer.model")
    config.data.update(rows=64, columns=64, slots=48, text_tokens=1_024, max_seconds=10.0)
    return config


def resident_mebibytes() -> float:
    """Returns the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def seconds_since_start() -> float:
    """Returns how long this process has been running, including its imports."""
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return float(Path("/proc/uptime").read_text().split()[0]) - int(started) / os.sysconf("SC_CLK_TCK")


def starting(directory: Path) -> dict[str, float]:
    """Measures the time from the start of the process to the first batch."""
    imported = seconds_since_start()
    config = benchmark_config(directory)
    batches = TrainBatches(config, load_tokenizer(config.data.tokenizer))
    opened = seconds_since_start()
    clips = int(next(batches).clip_valid.sum())
    done = seconds_since_start()
    batches.close()
    return {
        "to_imported_s": round(imported, 2),
        "to_open_data_s": round(opened, 2),
        "to_first_batch_s": round(done, 2),
        "clips_in_batch": clips,
    }


def memory(directory: Path) -> dict[str, Any]:
    """Measures resident memory before the data is opened, and after some numbers of batches."""
    imported = resident_mebibytes()
    config = benchmark_config(directory)
    batches = TrainBatches(config, load_tokenizer(config.data.tokenizer))
    after = {}
    clips = 0
    for number in range(1, 401):
        clips += int(next(batches).clip_valid.sum())
        if number in (1, 10, 100, 200, 300, 400):
            after[str(number)] = round(resident_mebibytes(), 1)
    batches.close()
    status = Path("/proc/self/status").read_text().split()  # getrusage would include the parent's peak before `exec`
    peak = int(status[status.index("VmHWM:") + 1]) / 1024
    return {"imports_mib": round(imported, 1), "after_batches_mib": after, "peak_mib": round(peak, 1), "clips": clips}


def resuming(directory: Path) -> dict[str, float]:
    """Measures the time to restore a state and draw the next batch, for near and far positions, without imports."""
    config = benchmark_config(directory)
    tokenizer = load_tokenizer(config.data.tokenizer)
    batches = TrainBatches(config, tokenizer)
    for _ in range(20):
        next(batches)
    state = batches.get_state()
    batches.close()
    seconds: dict[str, float] = {"state_bytes": len(json.dumps(state))}
    for position in (0, 10**5, 10**7, 10**10):
        moved = {shard: {**saved, "position": saved["position"] + position} for shard, saved in state["states"].items()}
        start = time.perf_counter()
        resumed = TrainBatches(config, tokenizer)
        resumed.set_state({**state, "states": moved})
        next(resumed)
        seconds[f"{position}_clips_of_each_shard_later_s"] = round(time.perf_counter() - start, 3)
        resumed.close()
    return seconds


def shuffling(directory: Path) -> dict[str, float]:
    """Measures the distance between neighbours in the first batches: 1/3 of the dataset if the shuffle is global."""
    config = benchmark_config(directory)
    sources = open_sources(config)
    shards = range(config.data.virtual_shards)
    rows = planned_rows(config, load_tokenizer(config.data.tokenizer), sources, [1.0], shards)
    chosen = np.array([clip.reference.record for _ in range(4) for row in next(rows) for clip in row])
    rows.close()
    count = len(sources["clips"])
    return {
        "clips": len(chosen),
        "mean_distance_of_neighbours": round(float(np.abs(np.diff(chosen)).mean() / count), 4),
        "correlation_of_neighbours": round(float(np.corrcoef(chosen[:-1], chosen[1:])[0, 1]), 4),
        "tenths_of_the_data_seen": len(np.unique(chosen * 10 // count)),
    }


MEASUREMENTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "starting": starting,
    "memory": memory,
    "resuming": resuming,
    "shuffling": shuffling,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path, help="directory for the records, kept and reused (a temporary one)")
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(MEASUREMENTS[options.measure](options.directory)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.directory or Path(temporary)
        results: dict[str, Any] = {
            "machine": machine("grain", "array-record"),
            "records": options.records,
            "writing_s": round(set_up(directory, options.records), 1),
        }
        for name in MEASUREMENTS:
            command = [sys.executable, __file__, "--measure", name, "--directory", str(directory)]
            print(name, file=sys.stderr)
            run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            results[name] = json.loads(run.stdout.splitlines()[-1])
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
