"""How full rows get, and how fast, on a seeded mix of durations: the training packer alone, without decoding.

Run: python benchmarks/packing.py [--bins 32 64 128] [--shards 8] [--rows 2048] > packing.json
"""

import argparse
import json
import time

import grain
import numpy as np
from absl import flags

from slap_jax.config import default_config, samples_per_column
from slap_jax.data.packing import Clip, clip_columns, clip_element, empty_rows, pack_stream, write_row

MEDIAN_SECONDS, LOG_DEVIATION = 7.0, 0.7
SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 30.0
MEDIAN_TOKENS, LOG_DEVIATION_TOKENS = 14, 0.4
CLIPS = 100_000


def duration_mix(clips: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns samples and text tokens of each clip: log-normal durations of 0.5 to 30 s, captions of 4 to 64 tokens."""
    generator = np.random.default_rng(seed)
    seconds = np.clip(
        generator.lognormal(np.log(MEDIAN_SECONDS), LOG_DEVIATION, clips), SHORTEST_SECONDS, LONGEST_SECONDS
    )
    tokens = np.clip(generator.lognormal(np.log(MEDIAN_TOKENS), LOG_DEVIATION_TOKENS, clips), 4, 64)
    return np.round(seconds * 16_000).astype(int), tokens.astype(int)


def measure(bins: int, shards: int, rows: int, columns: int, slots: int, text_tokens: int) -> dict[str, float]:
    """Packs `rows` rows over all shards; returns the shares of columns, tokens and slots in use, and the speed."""
    per_column = samples_per_column(default_config().audio)
    samples, tokens = duration_mix(CLIPS)
    silence = np.zeros(int(samples.max()), np.int16)
    words = list(range(int(tokens.max())))

    def element(index: int) -> dict[str, np.ndarray]:
        return clip_element(Clip(silence[: samples[index]], words[: tokens[index]], index), per_column)

    batch = empty_rows(1, columns, slots, text_tokens, per_column)
    used = np.zeros(3)
    seconds = 0.0
    for shard in range(shards):
        order = grain.MapDataset.range(CLIPS).seed(0).shuffle().repeat()[shard::shards]
        packed = iter(
            pack_stream(
                order.map(element).to_iter_dataset(grain.ReadOptions(0, 0)), columns, slots, text_tokens, bins, shard
            )
        )
        start = time.perf_counter()
        for _ in range(rows // shards):
            write_row(batch, 0, next(packed))
            used += [(batch.audio_segments > 0).sum(), (batch.text_segments > 0).sum(), batch.clip_valid.sum()]
        seconds += time.perf_counter() - start
    packed_rows = rows // shards * shards
    fill, text_fill, slot_fill = used / (packed_rows * np.array([columns, text_tokens, slots]))
    return {
        "bins": bins,
        "fill": round(float(fill), 5),
        "text_fill": round(float(text_fill), 5),
        "slot_fill": round(float(slot_fill), 5),
        "clips_per_s": round(float(used[2] / seconds), 1),
        "audio_s_per_s": round(float(used[0] * per_column / 16_000 / seconds), 1),
        "mebibytes_per_shard": round(bins * columns * per_column * 2 / 2**20, 1),
    }


def main() -> None:
    data = default_config().data
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bins", type=int, nargs="+", default=[data.packing_bins])
    parser.add_argument("--shards", type=int, default=data.virtual_shards)
    parser.add_argument("--rows", type=int, default=2_048, help="rows to pack over all shards")
    parser.add_argument("--columns", type=int, default=data.columns)
    parser.add_argument("--slots", type=int, default=data.slots)
    parser.add_argument("--text-tokens", type=int, default=data.text_tokens)
    options = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # grain reads absl flags
    sizes = {"columns": options.columns, "slots": options.slots, "text_tokens": options.text_tokens}
    samples, _ = duration_mix(CLIPS)
    mix = {
        "mean_s": round(float(samples.mean() / 16_000), 3),
        "padding_of_columns": round(float(1 - samples.sum() / clip_columns_total(samples)), 4),
    }
    results = [measure(bins, options.shards, options.rows, **sizes) for bins in options.bins]
    print(
        json.dumps(
            {"sizes": {**sizes, "shards": options.shards, "rows": options.rows}, "mix": mix, "results": results},
            indent=2,
        )
    )


def clip_columns_total(samples: np.ndarray) -> int:
    """Returns the samples that the clips take once each is padded to whole columns."""
    per_column = samples_per_column(default_config().audio)
    return sum(clip_columns(int(count), per_column) for count in samples) * per_column


if __name__ == "__main__":
    main()
