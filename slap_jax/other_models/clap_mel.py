"""The input features of transformers' `ClapModel`: exactly the values of `ClapFeatureExtractor`, without its loops.

    mel_t = 10 log10(max(filters |DFT(frame_t)|^2, 1e-10)),  frames centred, the edges reflected

A clip is first filled up to the length of the model, as the feature extractor's `padding` says. Its random crops never
occur here: recordings are cut into windows that fit.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

FILLS = ("repeatpad", "repeat", "pad")
_FLOOR = 1e-10  # of the mel power: -100 dB


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

    def __call__(self, waveform: Float[np.ndarray, " n"]) -> Float[np.ndarray, "channels frames mels"]:
        """Returns the features of a clip of 1 to `samples` samples."""
        mel = log_mel(fill_waveform(waveform, self.samples, self.fill), self.n_fft, self.hop, self.filters)
        return np.broadcast_to(mel, (self.channels, *mel.shape))


def fill_waveform(waveform: Float[np.ndarray, " n"], samples: int, fill: str) -> Float[np.ndarray, " samples"]:
    """Fills a clip of 1 to `samples` samples up to `samples`; see `ClapFrontEnd.fill`."""
    if fill == "repeat":
        return np.resize(waveform, samples)
    if fill == "repeatpad":
        waveform = np.tile(waveform, samples // len(waveform))
    return np.pad(waveform, (0, samples - len(waveform)))


def log_mel(
    waveform: Float[np.ndarray, " n"], n_fft: int, hop: int, filters: Float[np.ndarray, "F mels"]
) -> Float[np.ndarray, "frames mels"]:
    """Returns the log-mel power spectrogram in dB, float32."""
    # In float64 as in transformers: in float32 the sidelobes of a pure tone would rise above the floor.
    padded = np.pad(waveform.astype(np.float64), n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    spectrum = np.fft.rfft(frames * np.hanning(n_fft + 1)[:-1]).astype(np.complex64)
    power = np.square(spectrum.real, dtype=np.float64) + np.square(spectrum.imag, dtype=np.float64)
    return (10.0 * np.log10(np.maximum(power @ filters, _FLOOR))).astype(np.float32)
