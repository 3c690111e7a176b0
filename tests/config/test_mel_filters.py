"""The window and the mel filters equal those of librosa, which only the tests need."""

import librosa
import numpy as np
import pytest
import scipy.signal

from slap_jax.config.mel_filters import hann_window, mel_filter_bank


@pytest.mark.parametrize(
    ("rate", "n_fft", "mels", "low", "high"),
    [
        (16_000, 512, 64, 0.0, 8_000.0),
        (16_000, 1_024, 80, 50.0, 7_600.0),
        (48_000, 1_024, 64, 50.0, 14_000.0),
        (8_000, 256, 20, 0.0, 4_000.0),
        (16_000, 400, 40, 20.0, 900.0),  # all of it in the linear part of the scale
    ],
)
def test_the_filters_equal_those_of_librosa_bit_for_bit(rate, n_fft, mels, low, high):
    bank = mel_filter_bank(rate, n_fft, mels, low, high)
    expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=mels, fmin=low, fmax=high)
    assert bank.dtype == np.float32 and np.array_equal(bank, expected.T)


def test_the_window_is_the_periodic_one():
    assert np.allclose(hann_window(400), scipy.signal.get_window("hann", 400), atol=1e-15)
