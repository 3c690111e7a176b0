"""Fill and speed of our packer and of Grain's first-fit packer on a seeded mix of durations; no audio is decoded.

Run: python benchmarks/packing.py [--bins 8 16 32] [--clips 100000] > packing.json
"""

import argparse
import json
import time

import grain
import numpy as np

from slap_jax.config.defaults import default_config, samples_per_column
from slap_jax.data.batches.rows import RowPacker

MEDIAN_SECONDS, LOG_DEVIATION = 7.0, 0.7
SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 30.0
MEDIAN_TOKENS, LOG_DEVIATION_TOKENS = 14, 0.4


def duration_mix(clips: int, seed: int = 0) -> tuple[list[int], list[int]]:
    """Returns columns and text tokens of each clip: log-normal durations of 0.5 to 30 s, captions of 4 to 64 tokens."""
    generator = np.random.default_rng(seed)
    seconds = generator.lognormal(np.log(MEDIAN_SECONDS), LOG_DEVIATION, clips)
    samples = np.round(np.clip(seconds, SHORTEST_SECONDS, LONGEST_SECONDS) * 16_000)
    tokens = np.clip(generator.lognormal(np.log(MEDIAN_TOKENS), LOG_DEVIATION_TOKENS, clips), 4, 64)
    columns = np.ceil(samples / samples_per_column(default_config().audio))
    return columns.astype(int).tolist(), tokens.astype(int).tolist()


def our_packer(clips: int, bins: int, columns: int, slots: int, text_tokens: int) -> dict[str, float]:
    """Packs the mix with the packer of training."""
    packer: RowPacker[int] = RowPacker(columns, text_tokens, slots, bins)
    rows = []
    sizes = list(zip(*duration_mix(clips), strict=True))
    start = time.process_time()
    for item, (clip_columns, clip_tokens) in enumerate(sizes):
        row = packer.add(item, clip_columns, clip_tokens)
        if row is not None:
            rows.append(row)
    seconds = time.process_time() - start
    return {
        "fill": round(sum(clip.columns for row in rows for clip in row) / (len(rows) * columns), 5),
        "text_fill": round(sum(clip.tokens for row in rows for clip in row) / (len(rows) * text_tokens), 5),
        "slot_fill": round(sum(map(len, rows)) / (len(rows) * slots), 5),
        "clips_per_cpu_s": round(sum(map(len, rows)) / seconds),
    }


def grain_first_fit(clips: int, bins: int, columns: int, slots: int, text_tokens: int) -> dict[str, float]:
    """Packs the mix with Grain's first-fit packer, with one byte per column instead of the 5,120 of real audio."""
    clip_columns, clip_tokens = duration_mix(clips)

    def element(index: int) -> dict[str, np.ndarray]:
        return {"audio": np.zeros(clip_columns[index], np.int8), "text": np.zeros(clip_tokens[index], np.int8)}

    elements = [element(index) for index in range(clips)]
    rows = grain.experimental.FirstFitPackIterDataset(
        grain.MapDataset.source(elements).to_iter_dataset(grain.ReadOptions(0, 0)),
        length_struct={"audio": columns, "text": text_tokens},
        num_packing_bins=bins,
        max_sequences_per_bin=slots,
        shuffle_bins=True,
        seed=0,
    )
    used, packed, count = 0, 0, 0
    start = time.process_time()
    for row in rows:
        segments = row["audio_segment_ids"]
        used, packed, count = used + int((segments > 0).sum()), packed + int(segments.max()), count + 1
    seconds = time.process_time() - start
    return {"fill": round(used / (count * columns), 5), "clips_per_cpu_s": round(packed / seconds)}


def main() -> None:
    data = default_config().data
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bins", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=data.columns)
    parser.add_argument("--slots", type=int, default=data.slots)
    parser.add_argument("--text-tokens", type=int, default=data.text_tokens)
    options = parser.parse_args()
    sizes = {"columns": options.columns, "slots": options.slots, "text_tokens": options.text_tokens}
    results = [
        {
            "bins": bins,
            "slap_jax": our_packer(options.clips, bins, **sizes),
            "grain_first_fit": grain_first_fit(options.clips, bins, **sizes),
        }
        for bins in options.bins
    ]
    from machine import machine  # next to this file; tests import this file as part of a package

    print(
        json.dumps({"machine": machine("grain"), "sizes": sizes, "clips": options.clips, "results": results}, indent=2)
    )


if __name__ == "__main__":
    main()
