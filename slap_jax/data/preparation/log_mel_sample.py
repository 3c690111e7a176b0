"""Measures the log-mel of a sample of new records, so that configs take its mean and deviation from the data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from ml_collections import ConfigDict

from slap_jax.data.log_mel import clip_log_mel
from slap_jax.data.log_mel_statistics import front_end_settings
from slap_jax.data.records import decode_record

MEASURED_CLIPS = 200
MEASURED_SECONDS = 30.0  # of each clip, from its start


def measure_log_mel(shards: Sequence[tuple[Path, int]], split: str, audio: ConfigDict) -> dict[str, Any]:
    """Measures the mean and the standard deviation over all frames and bands of a seeded sample of clips.

    Args:
        shards: (file, number of records) of the split, in order.
        split: name of the split, for the result.
        audio: `config.audio`; its mean and deviation are not used.

    Returns:
        JSON values: `mean`, `std`, `split`, `clips`, and the settings of the `front_end`.
    """
    counts = np.array([count for _, count in shards], np.int64)
    starts = np.cumsum(counts) - counts
    clips = int(counts.sum())
    sample = np.sort(np.random.default_rng(0).choice(clips, min(MEASURED_CLIPS, clips), replace=False))
    longest = round(MEASURED_SECONDS * audio.sample_rate)
    values, total, squares = 0, 0.0, 0.0
    for (file, count), start in zip(shards, starts, strict=True):
        own = [int(number - start) for number in sample if start <= number < start + count]
        if not own:
            continue
        reader = ArrayRecordReader(str(file))
        for data in reader.read(own):
            mel = clip_log_mel(decode_record(data).waveform()[:longest], audio)
            values += mel.size
            total += float(mel.sum(dtype=np.float64))
            squares += float(np.square(mel, dtype=np.float64).sum())
        reader.close()
    mean = total / values
    return {
        "mean": round(mean, 3),
        "std": round(float(np.sqrt(max(0.0, squares / values - mean**2))), 3),
        "split": split,
        "clips": len(sample),
        "front_end": front_end_settings(audio),
    }
