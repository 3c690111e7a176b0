"""The log-mel of a clip on the host, for measurements and pictures; training computes it on the device."""

import numpy as np
from jaxtyping import Float, Int16
from ml_collections import ConfigDict

from slap_jax.config.defaults import samples_per_column
from slap_jax.config.mel_filters import import_librosa
from slap_jax.data.audio import INT16_SCALE
from slap_jax.data.packing import clip_columns


def clip_log_mel(waveform: Int16[np.ndarray, " n"], audio: ConfigDict) -> Float[np.ndarray, "frames mels"]:
    """Computes the natural log-mel of a clip on the host, equal to its frames in a packed row on the device.

    Args:
        waveform: 16 kHz mono.
        audio: `config.audio`.

    Returns:
        `frames_per_column` frames for each column of the clip.
    """
    columns = clip_columns(len(waveform), samples_per_column(audio))
    padded = np.zeros(columns * samples_per_column(audio), np.float32)
    padded[: len(waveform)] = waveform / np.float32(INT16_SCALE)
    mel = import_librosa().feature.melspectrogram(
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
