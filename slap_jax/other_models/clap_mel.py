"""The input features of transformers' `ClapModel`: exactly the values of `ClapFeatureExtractor`, without its loops.

    mel_t = 10 log10(max(filters |DFT(frame_t)|^2, 1e-10)),  frames centred, the edges reflected

A clip is first filled up to the length of the model, as the feature extractor's `padding` says. Its random crops never
occur here: recordings are cut into windows that fit.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
from jaxtyping import Float

FILLS = ("repeatpad", "repeat", "pad")
_FLOOR = 1e-10  # of the mel power: -100 dB
_FRAMES_AT_ONCE = 64  # whose spectra stay in the cache


@dataclasses.dataclass(frozen=True)
class ClapFrontEnd:
    """Settings of the features.

    Attributes:
        samples: length to which clips are filled.
        n_fft: samples of a frame.
        hop: samples from a frame to the next.
        filters: mel filters [n_fft / 2 + 1, mels].
        fill: how short clips are filled: "repeatpad" repeats them as often as they fit whole and adds silence,
            "repeat" repeats and cuts, "pad" adds silence.
        channels: copies of the mel; fused models take 4.
    """

    samples: int
    n_fft: int
    hop: int
    filters: Float[np.ndarray, "F mels"]
    fill: str
    channels: int

    @functools.cached_property
    def _filters(self) -> Any:
        # Sparse, because a bin belongs to two filters at most; and because NumPy's matrix product starts threads, which
        # spend more time waiting for each other than the product takes.
        from scipy.sparse import csr_array

        return csr_array(self.filters.T)

    def __call__(self, waveform: Float[np.ndarray, " n"]) -> Float[np.ndarray, "channels frames mels"]:
        """Returns the features of a clip of 1 to `samples` samples."""
        # In float64 as in transformers: in float32 the sidelobes of a pure tone would rise above the floor.
        filled = fill_waveform(waveform, self.samples, self.fill).astype(np.float64)
        padded = np.pad(filled, self.n_fft // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop]
        mel = np.empty((len(frames), self.filters.shape[1]), np.float32)
        window = np.hanning(self.n_fft + 1)[:-1]
        for start in range(0, len(frames), _FRAMES_AT_ONCE):
            block = slice(start, start + _FRAMES_AT_ONCE)
            spectrum = np.fft.rfft(frames[block] * window).astype(np.complex64)
            power = np.square(spectrum.real, dtype=np.float64) + np.square(spectrum.imag, dtype=np.float64)
            mel[block] = 10.0 * np.log10(np.maximum(self._filters @ power.T, _FLOOR)).T
        return np.broadcast_to(mel, (self.channels, *mel.shape))


def fill_waveform(waveform: Float[np.ndarray, " n"], samples: int, fill: str) -> Float[np.ndarray, " samples"]:
    """Fills a clip of 1 to `samples` samples up to `samples`; see `ClapFrontEnd.fill`."""
    if fill == "repeat":
        return np.resize(waveform, samples)
    if fill == "repeatpad":
        waveform = np.tile(waveform, samples // len(waveform))
    return np.pad(waveform, (0, samples - len(waveform)))
