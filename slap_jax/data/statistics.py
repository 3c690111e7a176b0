"""`slap stats`: durations of a split, and the mean and standard deviation of its log-mel for the config."""

import os
from typing import Any

import librosa
import numpy as np
from jaxtyping import Float, Int16
from ml_collections import ConfigDict

from slap_jax.config import columns_of, samples_per_column
from slap_jax.data.audio import INT16_SCALE
from slap_jax.data.packing import clip_columns
from slap_jax.data.records import open_split

SAMPLED_CLIPS = 1_000


def split_statistics(
    path: str | os.PathLike[str], split: str, audio: ConfigDict, clips: int = SAMPLED_CLIPS, seed: int = 0
) -> dict[str, Any]:
    """Measures a seeded sample of a split's clips.

    Args:
        path: prepared data.
        split: name, or several like "val+test".
        audio: `config.audio`; its `mean` and `std` are not used.
        clips: the most clips to measure.
        seed: chooses them.

    Returns:
        JSON values: `mean` and `std` of the log-mel over all frames and bands, as `config.audio` wants them; `clips` of
        the split and `measured` ones; of the measured, `hours` and the `duration_s` quantiles; `columns_of_longest`,
        the least `config.data.columns` that hold the longest uncropped.

    Raises:
        RecordsError: no prepared data there, or no such split.
    """
    records = open_split(path, split)
    chosen = np.random.default_rng(seed).permutation(len(records))[:clips]
    count, total, squares = 0, 0.0, 0.0
    seconds = []
    for index in np.sort(chosen):
        record = records[int(index)]
        mel = log_mel(record.waveform(), audio)
        count += mel.size
        total += float(mel.sum(dtype=np.float64))
        squares += float(np.square(mel, dtype=np.float64).sum())
        seconds.append(record.duration_s)
    mean = total / count
    low, median, high = (round(float(value), 3) for value in np.quantile(seconds, (0.05, 0.5, 0.95)))
    return {
        "mean": round(mean, 4),
        "std": round(float(np.sqrt(max(squares / count - mean**2, 0.0))), 4),
        "clips": len(records),
        "measured": len(chosen),
        "hours": round(sum(seconds) / 3_600, 4),
        "duration_s": {
            "min": round(min(seconds), 3),
            "5%": low,
            "50%": median,
            "95%": high,
            "max": round(max(seconds), 3),
        },
        "columns_of_longest": columns_of(max(seconds), audio),
    }


def log_mel(waveform: Int16[np.ndarray, " n"], audio: ConfigDict) -> Float[np.ndarray, "frames mels"]:
    """Computes on the host, by librosa, the log-mel frames that a clip has in a packed row.

    Args:
        waveform: 16 kHz mono.
        audio: `config.audio`.

    Returns:
        `frames_per_column` frames for each column that the clip owns.
    """
    columns = clip_columns(len(waveform), samples_per_column(audio))
    padded = np.zeros(columns * samples_per_column(audio), np.float32)
    padded[: len(waveform)] = waveform / np.float32(INT16_SCALE)
    mel = librosa.feature.melspectrogram(
        y=padded,
        sr=audio.sample_rate,
        n_fft=audio.n_fft,
        win_length=audio.window_length,
        hop_length=audio.hop_length,
        center=True,
        pad_mode="constant",
        power=2.0,
        n_mels=audio.mels,
        fmin=audio.f_min,
        fmax=audio.f_max,
    )
    return np.log(np.maximum(mel, audio.log_floor)).T[: columns * audio.frames_per_column]
