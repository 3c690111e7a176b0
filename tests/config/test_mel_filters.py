"""The window, and the import of librosa where numba can store nothing."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.signal

from slap_jax.config.mel_filters import hann_window

NOWHERE = """
import os
from slap_jax.config import mel_filters

mel_filters._is_writable = lambda folder: False
print(mel_filters.mel_filter_bank(16_000, 512, 64, 0.0, 8_000.0).shape)
assert os.path.isdir(os.environ["NUMBA_CACHE_DIR"])
"""


def test_the_window_is_the_periodic_one():
    assert np.allclose(hann_window(400), scipy.signal.get_window("hann", 400), atol=1e-15)


@pytest.mark.process
def test_librosa_is_imported_where_nothing_can_be_written():
    """numba is left with one place for its cache: the one that a user names. Without it, the import fails."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment["NUMBA_CACHE_LOCATOR_CLASSES"] = "UserProvidedCacheLocator"

    def run(program: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)

    assert "cannot cache function" in run("import librosa; librosa.filters.mel(sr=16_000, n_fft=512)").stderr
    done = run(NOWHERE)
    assert (done.stdout, done.stderr) == ("(257, 64)\n", "")
