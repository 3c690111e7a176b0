"""How loud a clip is."""

import numpy as np
from jaxtyping import Int16

from slap_jax.data.audio import INT16_SCALE

LOWEST_DBFS = -100.0  # stands for digital silence
SILENT_DBFS = -60.0  # below it nobody hears anything beside other clips


def loudness(waveform: Int16[np.ndarray, " n"]) -> float:
    """Returns the root mean square in dB of full scale (a sine at full scale: -3.0), at least `LOWEST_DBFS`."""
    power = float(np.mean(np.square(waveform, dtype=np.float32), dtype=np.float64)) / INT16_SCALE**2
    return max(LOWEST_DBFS, 10.0 * float(np.log10(power))) if power > 0 else LOWEST_DBFS
