"""The log-mel on the host equals that of librosa."""

import librosa
import numpy as np
import pytest

from slap_jax.config.defaults import default_config, samples_per_column
from slap_jax.data import log_mel
from slap_jax.data.log_mel import clip_log_mel


@pytest.mark.parametrize("samples", [1, 2_560, 50_001])
@pytest.mark.parametrize("changes", [{}, {"n_fft": 1_024, "mels": 80, "f_min": 50.0}, {"window_length": 512}])
def test_the_log_mel_equals_that_of_librosa(samples, changes, monkeypatch):
    monkeypatch.setattr(log_mel, "_FRAMES_AT_ONCE", 100)
    audio = default_config().audio
    audio.update(changes)
    waveform = np.random.default_rng(0).integers(-9_000, 9_000, samples).astype(np.int16)
    columns = -(-samples // samples_per_column(audio))
    padded = np.zeros(columns * samples_per_column(audio), np.float32)
    padded[:samples] = waveform / np.float32(32_768)
    expected = librosa.feature.melspectrogram(
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
    expected = np.log(np.maximum(expected, audio.log_floor)).T[: columns * audio.frames_per_column]
    result = clip_log_mel(waveform, audio)
    assert result.dtype == np.float32 and result.shape == expected.shape
    assert np.allclose(result, expected, atol=1e-4)
