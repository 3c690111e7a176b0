"""Clips that a record cannot hold as they are: samples beyond full scale, and channels that cancel each other.

They are stored, because neither is certainly a fault, but the summary and `slap data check` mention them.
"""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float

from slap_jax.data.audio import BLOCK_FRAMES, INT16_SCALE
from slap_jax.data.clip_statistics import SILENT_DBFS
from slap_jax.errors import printable

CLIPPED, CANCELLED = "clipped", "cancelled"

# Resampling and lossy codecs exceed full scale for single samples; nobody hears that these are cut.
_AUDIBLE_SHARE = 0.001
_INTEGER_SCALE = 100.0  # a peak above this is no loud recording but samples of another scale
_CANCELLED_DB = 20.0  # by which the mean of the channels is quieter than the loudest channel
_WORST = 3

# kind -> {"clips": number of clips, "worst": [[amount, file], ...], the largest amount first}
Altered = dict[str, dict[str, Any]]


class Alteration(NamedTuple):
    """How the stored samples of a clip differ from its file.

    Attributes:
        kind: `CLIPPED` or `CANCELLED`.
        amount: peak as a multiple of full scale, or dB by which the loudest channel exceeds the stored samples.
        clip: the file.
    """

    kind: str
    amount: float
    clip: str


def find_alteration(
    decoded: Float[np.ndarray, " n"], loudness_dbfs: float, audio: Path | bytes, name: str
) -> Alteration | None:
    """Compares the stored samples of a clip with its file.

    Args:
        decoded: mono, full scale 1.0.
        loudness_dbfs: `loudness` of the stored samples.
        audio: the encoded audio, which is read again only if the stored samples are silent.
        name: the file, for messages.
    """
    magnitudes = np.abs(decoded)
    if np.count_nonzero(magnitudes > 1.0) > _AUDIBLE_SHARE * len(decoded):
        return Alteration(CLIPPED, float(magnitudes.max()), printable(name))
    if loudness_dbfs < SILENT_DBFS:
        channel_dbfs = _loudest_channel(audio)
        if channel_dbfs > max(loudness_dbfs, SILENT_DBFS) + _CANCELLED_DB:
            return Alteration(CANCELLED, channel_dbfs - loudness_dbfs, printable(name))
    return None


def count_alteration(altered: Altered, alteration: Alteration | None) -> None:
    """Counts the alteration of one more clip."""
    if alteration is not None:
        add_altered(altered, {alteration.kind: {"clips": 1, "worst": [[alteration.amount, alteration.clip]]}})


def add_altered(altered: Altered, more: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds the counts of other clips."""
    for kind, other in more.items():
        own = altered.setdefault(kind, {"clips": 0, "worst": []})
        own["clips"] += other["clips"]
        worst = [(float(amount), str(clip)) for amount, clip in (*own["worst"], *other["worst"])]
        own["worst"] = [list(each) for each in sorted(worst, key=lambda each: -each[0])[:_WORST]]


def altered_lines(altered: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Describes the altered clips, one line for each kind."""
    for kind, values in altered.items():
        worst = values["worst"]
        largest, clips = worst[0][0], ", ".join(clip for _, clip in worst)
        count = f"{values['clips']:,} clip{'s' * (values['clips'] != 1)}"
        if kind == CANCELLED:
            yield (
                f"channels cancel each other, so that their mean is silent: {count}, such as {clips}; "
                "keep one channel of these files"
            )
            continue
        advice = "samples of integer scale? divide them by 32768" if largest > _INTEGER_SCALE else "lower their level"
        yield f"clipped to full scale: {count}, up to {largest:,.3g} times full scale, such as {clips}; {advice}"


def _loudest_channel(audio: Path | bytes) -> float:
    """Returns the loudness of the loudest channel; -inf if libsndfile cannot read the file."""
    squares: Any = 0.0
    frames = 0
    try:
        with soundfile.SoundFile(io.BytesIO(audio) if isinstance(audio, bytes) else str(audio)) as file:
            if file.channels < 2:
                return -np.inf
            while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
                squares = squares + np.square(block, dtype=np.float64).sum(axis=0)
                frames += len(block)
    except (soundfile.SoundFileError, RuntimeError, OSError, ValueError):
        return -np.inf
    power = float(np.max(squares)) / max(frames, 1)
    return 10.0 * float(np.log10(max(power, 1.0 / INT16_SCALE**2)))
