"""Seconds of audio per CPU second from FLAC on disk to batches: our pipeline compared with others on the same clips.

Our pipeline ends with packed int16 rows and tokens, because the log-mel is computed on the device. The others compute
it on the host and end with padded log-mels and tokens, so `slap_jax_log_mel` adds our log-mel on the CPU.

Run: pip install -e '.[benchmarks]' && python benchmarks/data_path.py [--manifest M.jsonl] > data_path.json
"""

import argparse
import cProfile
import json
import pstats
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from data_path_peers import PEERS
from machine import machine
from ml_collections import ConfigDict

from slap_jax.config.defaults import default_config, source
from slap_jax.data.audio import decode_flac
from slap_jax.data.batches.augment import Augmenter
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.batches.rows import RowAssembler, open_sources, planned_rows
from slap_jax.data.preparation.prepare import prepare
from slap_jax.data.records import open_split
from slap_jax.data.tokenizer import load_tokenizer, train_tokenizer

DEMO = Path(__file__).parent.parent / "demo_data" / "manifest.jsonl"
OURS: dict[str, dict[str, Any]] = {
    "slap_jax": {"decode_threads": 1, "read_threads": 0},
    "slap_jax_2_threads": {"decode_threads": 2, "read_threads": 1},
    "slap_jax_2_workers": {"decode_threads": 1, "read_threads": 0, "workers": 2},
}
LIBRARIES = ("grain", "array-record", "soundfile", "torch", "librosa", "transformers")
SIDES = ("flac_decoding_alone", *OURS, "slap_jax_log_mel", *PEERS)

# Parts of the profile: name -> (end of the file path, function). The time includes everything that the function calls.
PARTS = {
    "decode FLAC": ("data/audio.py", "decode_flac_into"),
    "read and parse the record": ("data/records.py", "__getitem__"),
    "draw the caption": ("data/batches/labels.py", "choose_caption"),
    "tokenise": ("data/tokenizer.py", "encode"),
    "pack": ("data/batches/rows.py", "add"),
    "write segments and tokens": ("data/packing.py", "write_slot"),
}


def benchmark_config(directory: Path, **changes: Any) -> ConfigDict:
    """Returns a config for the prepared clips, with rows of 41 s that have room for many short clips."""
    config = default_config()
    config.data.train.clips = source(str(directory / "records"), "+".join(splits(directory)))
    config.data.tokenizer = str(directory / "tokenizer.model")
    config.data.update(rows=16, columns=256, slots=64, text_tokens=1_024, virtual_shards=4, **changes)
    return config


def splits(directory: Path) -> list[str]:
    """Returns all splits of the prepared clips."""
    summary = next((directory / "records").glob("*/*/slap_records.json"))
    return sorted(json.loads(summary.read_text())["splits"])


def set_up(manifest: Path, directory: Path) -> None:
    """Prepares records and a tokenizer, and writes the same FLAC data to files for the other pipelines."""
    prepare(manifest, directory / "records", log=lambda line: print(line, file=sys.stderr))
    (directory / "files").mkdir()
    captions = []
    for number, record in enumerate(open_split(directory / "records", "+".join(splits(directory)))):
        (directory / "files" / f"{number:06d}.flac").write_bytes(record.audio)
        captions.append(record.captions)
    (directory / "captions.json").write_text(json.dumps(captions))
    train_tokenizer((text for texts in captions for text in texts), directory / "tokenizer.model", 2_000)


def our_batches(directory: Path, log_mel: bool = False, **changes: Any) -> Iterator[float]:
    """Yields the seconds of audio in each batch of our pipeline."""
    config = benchmark_config(directory, **changes)
    batches = TrainBatches(config, load_tokenizer(config.data.tokenizer))
    compute: Callable[[Any], Any] = our_log_mel(config) if log_mel else lambda batch: None
    try:
        for batch in batches:
            compute(batch)
            yield float((batch.audio_segment_ids > 0).sum()) * 0.16
    finally:
        batches.close()


def our_log_mel(config: ConfigDict) -> Callable[[Any], Any]:
    """Returns the jitted front end on the CPU."""
    import jax

    from slap_jax.models.frontend import log_mel

    front_end = jax.jit(lambda waveform, segments: log_mel(waveform, segments, config.audio))
    return lambda batch: jax.block_until_ready(front_end(batch.waveform, batch.audio_segment_ids))


def decoding_alone(directory: Path) -> Iterator[float]:
    """Decodes clips from memory, and yields the seconds of audio for every 100 clips."""
    audio = [file.read_bytes() for file in sorted((directory / "files").iterdir())]
    while True:
        for first in range(0, len(audio), 100):
            yield sum(len(decode_flac(data)) for data in audio[first : first + 100]) / 16_000


def measure(batches: Iterator[float], seconds: float) -> dict[str, float]:
    """Draws batches for about `seconds` after a first batch. The CPU time includes that of worker processes."""
    next(batches)
    wall, cpu, audio = time.perf_counter(), time.process_time(), 0.0
    while time.perf_counter() - wall < seconds:
        audio += next(batches)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    batches.close()  # pyright: ignore[reportAttributeAccessIssue]  a generator
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"audio_s": audio, "wall_s": wall, "cpu_s": cpu + children}


def run_side(side: str, directory: Path, seconds: float) -> dict[str, float]:
    """Measures one pipeline in this process."""
    if side in PEERS:
        return measure(PEERS[side](directory), seconds)
    if side == "flac_decoding_alone":
        return measure(decoding_alone(directory), seconds)
    if side == "slap_jax_log_mel":
        return measure(our_batches(directory, log_mel=True, **OURS["slap_jax"]), seconds)
    return measure(our_batches(directory, **OURS[side]), seconds)


def profile(directory: Path) -> dict[str, float]:
    """Returns the fraction of the time that each part of our pipeline takes in one thread."""
    config = benchmark_config(directory, decode_threads=1, read_threads=0)
    sources = open_sources(config)
    rows = planned_rows(config, load_tokenizer(config.data.tokenizer), sources, [1.0], range(4))
    assemble = RowAssembler(config, sources, Augmenter(config.data.augment))
    assemble(next(rows))
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(8):
        assemble(next(rows))
    profiler.disable()
    rows.close()
    stats: dict[tuple[str, int, str], Any] = pstats.Stats(profiler).stats  # pyright: ignore[reportAttributeAccessIssue]
    total = sum(entry[2] for entry in stats.values())
    fractions = {
        part: sum(entry[3] for (path, _, name), entry in stats.items() if path.endswith(file) and name == function)
        / total
        for part, (file, function) in PARTS.items()
    }
    fractions["all else: Grain, random numbers, Python"] = 1.0 - sum(fractions.values())
    return {part: round(fraction, 3) for part, fraction in fractions.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, default=DEMO, help="clips to use (those of the demo)")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each pipeline per round")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; the median is reported")
    parser.add_argument("--side", choices=(*SIDES, "profile"), help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side == "profile":
        print(json.dumps(profile(options.directory)))
        return
    if options.side:
        print(json.dumps(run_side(options.side, options.directory, options.seconds)))
        return

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        set_up(options.manifest, directory)

        def in_own_process(side: str) -> Any:
            command = [sys.executable, __file__, "--side", side, "--directory", folder]
            print(side, file=sys.stderr)
            run = subprocess.run([*command, "--seconds", str(options.seconds)], stdout=subprocess.PIPE, check=True)
            return json.loads(run.stdout.splitlines()[-1])

        rounds = [{side: in_own_process(side) for side in SIDES} for _ in range(options.rounds)]
        fractions = in_own_process("profile")
        seconds = [len(decode_flac(file.read_bytes())) / 16_000 for file in (directory / "files").iterdir()]

    def median(side: str, time_key: str) -> float:
        return statistics.median(run[side]["audio_s"] / run[side][time_key] for run in rounds)

    per_cpu_s = {side: round(median(side, "cpu_s"), 1) for side in SIDES}
    best_peer = max(PEERS, key=lambda side: per_cpu_s[side])
    results = {
        "machine": machine(*LIBRARIES),
        "clips": {"number": len(seconds), "mean_s": round(float(np.mean(seconds)), 3)},
        "audio_s_per_cpu_s": per_cpu_s,
        "audio_s_per_wall_s": {side: round(median(side, "wall_s"), 1) for side in SIDES},
        "best_peer": best_peer,
        "ratio_to_best_peer": round(per_cpu_s["slap_jax"] / per_cpu_s[best_peer], 2),
        "ratio_to_best_peer_with_our_log_mel_on_the_cpu": round(
            per_cpu_s["slap_jax_log_mel"] / per_cpu_s[best_peer], 2
        ),
        "share_of_our_time": fractions,
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
