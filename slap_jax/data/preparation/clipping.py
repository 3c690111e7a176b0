"""Clips with samples beyond full scale, which a record cannot hold: they are cut, and the summary mentions them."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.errors import printable

# Resampling and lossy codecs exceed full scale a little, for single samples; nobody hears that these are cut.
_AUDIBLE_PEAK = 10 ** (3 / 20)  # 3 dB above full scale
_AUDIBLE_SHARE = 0.001
_WORST = 3

# {"clips": number of clips, "worst": [[peak as a multiple of full scale, file], ...], the highest peak first}
Clipped = dict[str, Any]


def none_clipped() -> Clipped:
    """Returns the counts of no clips."""
    return {"clips": 0, "worst": []}


def clipped_peak(decoded: Float[np.ndarray, " n"]) -> float:
    """Returns the peak of samples that are cut audibly at full scale, 1.0; 0.0 for others."""
    magnitudes = np.abs(decoded)
    peak = float(magnitudes.max())
    is_audible = peak > _AUDIBLE_PEAK and np.count_nonzero(magnitudes > 1.0) > _AUDIBLE_SHARE * len(decoded)
    return peak if is_audible else 0.0


def count_clipped(clipped: Clipped, peak: float, file: str) -> None:
    """Counts a clip if its `clipped_peak` is not 0."""
    if peak:
        add_clipped(clipped, {"clips": 1, "worst": [[peak, printable(file)]]})


def add_clipped(clipped: Clipped, more: Mapping[str, Any]) -> None:
    """Adds the counts of other clips."""
    clipped["clips"] += more["clips"]
    worst = [(float(peak), str(file)) for peak, file in (*clipped["worst"], *more["worst"])]
    clipped["worst"] = [list(each) for each in sorted(worst, key=lambda each: -each[0])[:_WORST]]


def clipped_lines(clipped: Mapping[str, Any]) -> Iterator[str]:
    """Describes the clipped clips in one line; yields nothing if there are none."""
    if clipped["clips"]:
        worst = ", ".join(f"{file} ({peak:.3g} times full scale)" for peak, file in clipped["worst"])
        clips = f"{clipped['clips']:,} clip{'s' * (clipped['clips'] != 1)}"
        yield f"louder than full scale and clipped to it: {clips}, the loudest: {worst}; lower the level of these files"
