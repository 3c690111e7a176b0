"""The window and the mel filters of the front end, which the host and the device share, from librosa.

When librosa is imported, it compiles functions with numba. numba raises an error if it cannot store the result, as in a
read-only environment of a user without a home directory. It then gets a temporary folder.
"""

import atexit
import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float


@functools.cache
def hann_window(length: int) -> Float[np.ndarray, " n"]:
    """Returns the periodic Hann window, float64 [length]."""
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / length)


@functools.cache
def mel_filter_bank(
    sample_rate: int, n_fft: int, mels: int, f_min: float, f_max: float
) -> Float[np.ndarray, "bins mels"]:
    """Returns librosa's Slaney-style mel filters, float32 [n_fft / 2 + 1, mels]."""
    bank = import_librosa().filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=mels, fmin=f_min, fmax=f_max)
    return np.ascontiguousarray(bank.T, dtype=np.float32)


@functools.cache
def import_librosa() -> Any:
    """Imports librosa, also where nothing can be written. This takes two seconds, so import it at its first use."""
    if "NUMBA_CACHE_DIR" not in os.environ and not _numba_can_store():
        folder = tempfile.mkdtemp(prefix="numba_")
        os.environ["NUMBA_CACHE_DIR"] = folder  # read when numba is imported
        if numba_config := sys.modules.get("numba.core.config"):  # imported earlier, by other code
            vars(numba_config)["CACHE_DIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    import librosa

    return librosa


def _numba_can_store() -> bool:
    """Whether numba finds a folder for compiled functions: next to librosa's code, or in the user's cache."""
    from importlib.util import find_spec

    spec = find_spec("librosa")
    origin = None if spec is None else spec.origin
    in_tree = [] if origin is None else [Path(origin).parent / "core" / "__pycache__"]
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "numba"
    return any(_is_writable(folder) for folder in [*in_tree, user])


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
