"""Duration and loudness of clips: quantiles and histograms of a stream of numbers in constant memory."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int16, Int64

from slap_jax.data.audio import INT16_SCALE, SAMPLE_RATE

LOWEST_DBFS = -100.0  # digital silence
SILENT_DBFS = -60.0  # quieter clips are inaudible next to other clips
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


class ClipStatistics:
    """Distributions of the duration and loudness of clips.

    Attributes:
        log_seconds: log10 of the durations.
        loudness: in dB of full scale.
    """

    def __init__(self):
        self.log_seconds = Distribution(-5.0, 6.0, 0.1, fine=1_000)
        self.loudness = Distribution(-102.0, 3.0, 3.0)

    def add_durations(self, samples: Int64[np.ndarray, " n"]) -> None:
        """Counts the durations of clips, given in samples at 16 kHz."""
        self.log_seconds.add(np.log10(samples / SAMPLE_RATE))

    def add_loudness(self, dbfs: Float[np.ndarray, " n"]) -> None:
        """Counts the loudness of clips, which need not be the clips whose durations are counted."""
        self.loudness.add(dbfs)

    def summary(self) -> dict[str, Any]:
        """Returns quantiles and histograms as JSON values; all datasets share the edges of the histograms."""
        edges, counts = self.log_seconds.histogram()
        loudness_edges, loudness_counts = self.loudness.histogram()
        return {
            "duration_s": {
                "quantiles": {name: float(f"{10**value:.3g}") for name, value in self.log_seconds.quantiles().items()},
                "histogram": {"edges": [float(f"{10**edge:.4g}") for edge in edges], "counts": counts.tolist()},
            },
            "loudness_dbfs": {
                "quantiles": {name: round(value, 2) for name, value in self.loudness.quantiles().items()},
                "histogram": {"edges": loudness_edges.tolist(), "counts": loudness_counts.tolist()},
            },
        }


def loudness(waveform: Int16[np.ndarray, " n"]) -> float:
    """Returns the root mean square in dB of full scale (a sine at full scale: -3.0), at least `LOWEST_DBFS`."""
    power = float(np.mean(np.square(waveform, dtype=np.float32), dtype=np.float64)) / INT16_SCALE**2
    return max(LOWEST_DBFS, 10.0 * float(np.log10(power))) if power > 0 else LOWEST_DBFS


class Distribution:
    """Streaming histogram between two bounds; quantiles are exact to the width of a fine bin."""

    def __init__(self, lowest: float, highest: float, bin_width: float, fine: int = 100):
        """Starts empty.

        Args:
            lowest: lower bound, a multiple of `bin_width`.
            highest: upper bound; numbers beyond a bound are counted at the bound.
            bin_width: width of the bins of the histogram.
            fine: number of fine bins in each bin of the histogram.
        """
        self._lowest, self._bin_width, self._fine = lowest, bin_width, fine
        self._counts: Int64[np.ndarray, " bins"] = np.zeros(round((highest - lowest) / bin_width) * fine, np.int64)

    def add(self, values: Float[np.ndarray, " n"]) -> None:
        """Counts some numbers."""
        # A number on an edge belongs to the bin above it, even if rounding put it just below.
        bins = np.floor((values - self._lowest) / self._bin_width * self._fine + 1e-6).astype(np.int64)
        self._counts += np.bincount(bins.clip(0, len(self._counts) - 1), minlength=len(self._counts))

    def quantiles(self) -> dict[str, float]:
        """Returns percentage -> quantile for each of the `QUANTILES`, as the centre of a fine bin."""
        cumulative = np.cumsum(self._counts)
        ranks = np.ceil(np.array(QUANTILES) * cumulative[-1]).clip(min=1)
        values = self._lowest + (np.searchsorted(cumulative, ranks) + 0.5) * self._bin_width / self._fine
        return {f"{100 * quantile:g}%": float(value) for quantile, value in zip(QUANTILES, values, strict=True)}

    def histogram(self) -> tuple[Float[np.ndarray, " edges"], Int64[np.ndarray, " bins"]]:
        """Returns the edges and counts of the bins, from the first to the last that is not empty."""
        counts = self._counts.reshape(-1, self._fine).sum(axis=1)
        occupied = np.flatnonzero(counts)
        first, last = int(occupied[0]), int(occupied[-1])
        return self._lowest + np.arange(first, last + 2) * self._bin_width, counts[first : last + 1]
