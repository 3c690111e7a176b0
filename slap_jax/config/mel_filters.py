"""The window and the mel filters of the front end, which the host and the device share.

They equal librosa's, bit for bit. librosa itself is not imported: it compiles functions with numba at import, which
takes two seconds, and fails where numba can write to no directory.
"""

import functools

import numpy as np
from jaxtyping import Float

_HZ_PER_MEL = 200.0 / 3  # of the linear part of the scale
_FIRST_LOG_HZ = 1_000.0
_FIRST_LOG_MEL = _FIRST_LOG_HZ / _HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0  # per mel above


@functools.cache
def hann_window(length: int) -> Float[np.ndarray, " n"]:
    """Returns the periodic Hann window, float64 [length]."""
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / length)


@functools.cache
def mel_filter_bank(
    sample_rate: int, n_fft: int, mels: int, f_min: float, f_max: float
) -> Float[np.ndarray, "bins mels"]:
    """Returns triangular filters of unit area, evenly spaced on the mel scale of Slaney's Auditory Toolbox.

    The scale is linear up to 1 kHz = 15 mel, then logarithmic with 27 mel per factor 6.4.

    Returns:
        float32 [n_fft / 2 + 1, mels].
    """
    mel = np.linspace(_to_mel(f_min), _to_mel(f_max), mels + 2)
    edges = _HZ_PER_MEL * mel
    logarithmic = mel >= _FIRST_LOG_MEL
    edges[logarithmic] = _FIRST_LOG_HZ * np.exp(_LOG_STEP * (mel[logarithmic] - _FIRST_LOG_MEL))
    ramps = np.subtract.outer(edges, np.fft.rfftfreq(n_fft, 1.0 / sample_rate))
    widths = np.diff(edges)[:, None]
    bank = np.maximum(0, np.minimum(-ramps[:-2] / widths[:-1], ramps[2:] / widths[1:])).astype(np.float32)
    bank *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return np.ascontiguousarray(bank.T)


def _to_mel(hertz: float) -> float:
    if hertz < _FIRST_LOG_HZ:
        return hertz / _HZ_PER_MEL
    return _FIRST_LOG_MEL + np.log(hertz / _FIRST_LOG_HZ) / _LOG_STEP
