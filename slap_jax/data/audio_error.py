"""The error of audio that cannot be used, and the remark about audio that is used in spite of a fault."""

import functools
import logging

from slap_jax.errors import UserError, printable


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
