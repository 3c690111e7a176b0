"""The error for audio that cannot be used, the warning for audio that is used in spite of a fault, and the limits.

A damaged header may state any sample rate and any number of channels, so both are checked.
"""

import functools
import logging

from slap_jax.errors import UserError, printable

MAX_CHANNELS = 64
# Below 1 kHz nothing would be left of a sound, and resampling would need any amount of memory. Ultrasound is recorded
# at up to 1 MHz.
SAMPLE_RATES = (1_000, 1_000_000)


class AudioError(UserError, ValueError):
    """Audio cannot be used; the message names the file, what was found and what to do.

    Attributes:
        reason: the kind of fault, as `rejected.jsonl` counts it.
    """

    def __init__(self, message: str, reason: str = "bad_audio"):
        super().__init__(message)
        self.reason = reason


def unreadable(name: str, reason: str, advice: str = "convert it, or leave it out") -> AudioError:
    """Returns the error for data that are not audio, or damaged."""
    return AudioError(
        f"{name} is not readable as audio ({reason}); expected WAV, FLAC, Ogg, Opus, MP3, AIFF, M4A or the like, "
        f"intact: {advice}",
        "unreadable_audio",
    )


def reason_of(error: Exception) -> str:
    """Returns what a decoder says about a fault, without the name of the file."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    text = getattr(error, "strerror", None) or str(error).rpartition(": ")[2] or type(error).__name__
    return text.rstrip(".")


@functools.lru_cache(maxsize=1024)
def mention(message: str) -> None:
    """Logs a warning once, however often its file is decoded."""
    logging.warning("%s", printable(message))


def check_rate(rate: int, name: str) -> None:
    """Raises `AudioError` if a sample rate is outside `SAMPLE_RATES`."""
    low, high = SAMPLE_RATES
    if not low <= rate <= high:
        raise AudioError(
            f"{name} has a sample rate of {rate} Hz; expected {low} to {high} Hz: correct its header, or leave it out",
            "bad_sample_rate",
        )


def check_channels(channels: int, name: str) -> None:
    """Raises `AudioError` if there are more channels than `MAX_CHANNELS`."""
    if channels > MAX_CHANNELS:
        raise AudioError(
            f"{name} has {channels} channels; expected at most {MAX_CHANNELS}: correct its header, or leave it out",
            "too_many_channels",
        )
