"""The log-mel of a clip on the host, for measurements and pictures; training computes it on the device."""

import numpy as np
from jaxtyping import Float, Int16
from ml_collections import ConfigDict

from slap_jax.config.defaults import samples_per_column
from slap_jax.config.mel_filters import hann_window, mel_filter_bank
from slap_jax.data.audio import INT16_SCALE
from slap_jax.data.packing import clip_columns

_FRAMES_AT_ONCE = 4_096  # 8 MB of samples under the window


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
    # The frame of n_fft samples is centred on its sample, and the window in the frame.
    left = (audio.n_fft - audio.window_length) // 2
    window = np.zeros(audio.n_fft, np.float32)
    window[left : left + audio.window_length] = hann_window(audio.window_length)
    bank = mel_filter_bank(audio.sample_rate, audio.n_fft, audio.mels, audio.f_min, audio.f_max)
    centred = np.pad(padded, audio.n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(centred, audio.n_fft)[:: audio.hop_length]
    count = columns * audio.frames_per_column
    mel = np.empty((count, audio.mels), np.float32)
    for start in range(0, count, _FRAMES_AT_ONCE):
        part = slice(start, min(start + _FRAMES_AT_ONCE, count))
        spectrum = np.fft.rfft(frames[part] * window)
        mel[part] = (spectrum.real**2 + spectrum.imag**2) @ bank
    return np.log(np.maximum(mel, audio.log_floor))
