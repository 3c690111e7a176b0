"""Seeded clips of mixed durations with captions, and ways to form batches of them."""

import dataclasses

import numpy as np

SAMPLE_RATE, COLUMN_SAMPLES = 16_000, 2_560
SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 30.0
# With this median, the clipped durations are 6 s on average.
MEDIAN_SECONDS, LOG_DEVIATION = 4.42, 0.8
MEDIAN_TOKENS, LOG_DEVIATION_TOKENS, LONGEST_CAPTION = 14, 0.4, 64


@dataclasses.dataclass(frozen=True)
class MixedClip:
    """int16 samples and the token ids of a caption."""

    waveform: np.ndarray
    tokens: list[int]

    @property
    def seconds(self) -> float:
        """The duration."""
        return len(self.waveform) / SAMPLE_RATE

    @property
    def columns(self) -> int:
        """The number of columns of 0.16 s that the clip occupies."""
        return -(-len(self.waveform) // COLUMN_SAMPLES)


Batches = list[list[MixedClip]]


def mixed_clips(count: int, vocabulary: int, seed: int = 0) -> list[MixedClip]:
    """Returns clips of noise: log-normal durations of 0.5 to 30 s, captions of 4 to 64 tokens."""
    generator = np.random.default_rng(seed)
    seconds = generator.lognormal(np.log(MEDIAN_SECONDS), LOG_DEVIATION, count)
    samples = np.round(np.clip(seconds, SHORTEST_SECONDS, LONGEST_SECONDS) * SAMPLE_RATE).astype(int)
    words = generator.lognormal(np.log(MEDIAN_TOKENS), LOG_DEVIATION_TOKENS, count)
    return [
        MixedClip(
            (generator.standard_normal(length) * 3_000).astype(np.int16),
            generator.integers(4, vocabulary, int(np.clip(tokens, 4, LONGEST_CAPTION))).tolist(),
        )
        for length, tokens in zip(samples.tolist(), words.tolist(), strict=True)
    ]


def in_order(clips: list[MixedClip], size: int) -> Batches:
    """Returns batches of consecutive clips."""
    return [clips[start : start + size] for start in range(0, len(clips) - size + 1, size)]


def by_length(clips: list[MixedClip], size: int, buckets: int, count: int) -> Batches:
    """Returns `count` batches from length buckets, spread evenly over the buckets.

    Args:
        clips: the pool. It is sorted by length and divided into buckets of one batch each.
        size: number of clips in a batch.
        buckets: number of buckets in the pool.
        count: number of batches to return, a divisor of `buckets`. Each comes from the middle of an equal range of
            buckets, so that their padding represents that of the pool.
    """
    ordered = in_order(sorted(clips[: size * buckets], key=lambda clip: len(clip.waveform)), size)
    step = buckets // count
    return ordered[step // 2 :: step]
