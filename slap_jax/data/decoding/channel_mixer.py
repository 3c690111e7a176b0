"""The mean of the channels of a recording, block by block, and the checks of its values."""

import numpy as np
from jaxtyping import Float

from slap_jax.data.decoding.errors import AudioError, mention

# Full scale is 1. Float recordings may exceed it: a mix without a limiter does so by 20 dB. Nothing that was recorded
# or mixed exceeds it by 40 dB, so a higher peak means integers, or other bytes, that were stored as floats.
_LOUD = 4.0
_ABSURD = 100.0
_LARGEST_INTEGER = 2.0**31
# Channels cancel each other if their mean is 40 dB below the loudest of them. The mean of 64 channels, of which one
# has sound, is only 36 dB below.
_CANCELLED = 0.01


class ChannelMixer:
    """Averages the channels of consecutive blocks of one recording.

    A recording gets the same verdict in blocks of any origin as long as their borders are the same.
    """

    def __init__(self, name: str):
        self._name = name
        self._peak = 0.0  # of all channels
        self._mean_peak = 0.0  # of their mean
        self._cancelling = False

    def mix(self, block: Float[np.ndarray, "n channels"]) -> Float[np.ndarray, " n"]:
        """Returns the mean of the channels.

        Raises:
            AudioError: the samples are not on the scale of floats.
        """
        peak = float(max(block.max(initial=0.0), -block.min(initial=0.0)))
        if not peak <= _LOUD and np.isfinite(peak):  # NaN and infinity are reported with their place, or their number
            self._check_scale(block, peak)
        self._peak = max(self._peak, peak)
        if block.shape[1] == 1:
            return block[:, 0]
        with np.errstate(invalid="ignore", over="ignore"):  # of infinite samples
            mono = block.mean(axis=1)
        self._mean_peak = max(self._mean_peak, float(max(mono.max(initial=0.0), -mono.min(initial=0.0))))
        self._cancelling = self._peak < np.inf and self._mean_peak < _CANCELLED * self._peak
        return mono

    def finish(self) -> None:
        """Ends the recording, and mentions that it is louder than full scale.

        Raises:
            AudioError: its channels cancel each other.
        """
        if self._cancelling:
            raise AudioError(
                f"{self._name} has channels that cancel each other: they reach {self._peak:.3g}, and their mean "
                f"{self._mean_peak:.2g}; export one of the channels, or invert one of them",
                "cancelling_channels",
            )
        if _LOUD < self._peak < np.inf:
            mention(
                f"{self._name} is louder than full scale: it reaches {self._peak:.4g}, expected 1; it is clipped when "
                "stored as a record: normalise it"
            )

    def _check_scale(self, block: Float[np.ndarray, "n channels"], peak: float) -> None:
        if peak > _LARGEST_INTEGER:
            raise AudioError(
                f"{self._name} has absurd samples: they reach {peak:.3g}, expected about 1; probably bytes of another "
                "kind were read as floats: write the file again from its source",
                "bad_scale",
            )
        if peak > _ABSURD or bool((block == np.rint(block)).all()):
            raise AudioError(
                f"{self._name} has floats of integer scale: they reach {peak:.6g}, expected about 1; divide them by "
                "32768 if they were integers of 16 bits, 8388608 for 24, 2147483648 for 32, or store integers",
                "bad_scale",
            )
