"""The features of ClapModel against those of transformers (stored by tests/golden/make_clap_mel.py)."""

import librosa
import numpy as np
import pytest

from slap_jax.other_models.clap_mel import ClapFrontEnd
from tests.golden.make_clap_mel import CASES, FILE, RATE, SAMPLES, SETTINGS, waveform


@pytest.mark.parametrize("truncation", ["rand_trunc", "fusion"])
@pytest.mark.parametrize(("samples", "fill"), CASES)
def test_features_equal_those_of_transformers(truncation, samples, fill):
    fused = truncation == "fusion"
    bank = librosa.filters.mel(
        sr=RATE,
        n_fft=SETTINGS["fft_window_size"],
        n_mels=SETTINGS["feature_size"],
        fmin=SETTINGS["frequency_min"],
        fmax=SETTINGS["frequency_max"],
        htk=fused,  # fused models read torchaudio's filters, the others librosa's
        norm=None if fused else "slaney",
        dtype=np.float64,
    )
    hop, n_fft = SETTINGS["hop_length"], SETTINGS["fft_window_size"]
    front_end = ClapFrontEnd(SAMPLES, n_fft, hop, bank.T, fill, channels=4 if fused else 1)
    found = front_end(waveform(samples))
    expected = np.load(FILE)[f"{truncation} {samples} {fill}"]
    assert found.dtype == np.float32
    assert found.shape == (4 if fused else 1, 34, 16)
    assert expected.min() == -100.0
    for channel in found:
        np.testing.assert_allclose(channel, expected, atol=2e-5)
