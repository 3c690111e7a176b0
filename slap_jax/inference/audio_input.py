"""The forms in which a person hands over a clip, as samples at the model's rate."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.data.audio import AudioError, decode_audio, prepare_waveform
from slap_jax.data.audio_stream import stream_array, stream_audio

# A file's path, its encoded bytes, (samples, sample rate in Hz), or samples whose rate is told beside them.
Audio = str | os.PathLike[str] | bytes | tuple[Any, int] | np.ndarray


def read_audio(item: Audio, rate: int, name: str = "", array_rate: int | None = None) -> Float[np.ndarray, " n"]:
    """Reads one clip whole.

    Args:
        item: a path, the bytes of an audio file, a pair (samples, sample rate), or samples alone. Samples are [n] or
            [n, channels] as soundfile returns them; integers are scaled by their type, floats have full scale 1.
        rate: of the result, in Hz.
        name: what errors call the clip; they name a path in any case.
        array_rate: sample rate of samples that come alone.

    Returns:
        Mono float32 samples [n], n >= 1.

    Raises:
        AudioError: unreadable, empty, broken off, with NaN samples, or none of these forms.
    """
    if isinstance(item, bytes):
        return decode_audio(item, rate, name=f"{name or 'clip'} ({len(item)} bytes)")
    if isinstance(item, (str, os.PathLike)):
        try:
            return decode_audio(item, rate)
        except AudioError as error:
            raise named(error, name) from error
    samples, own_rate = _samples_and_rate(item, name or "clip", array_rate)
    return prepare_waveform(samples, own_rate, rate, name=name or "clip")


def stream_item(
    item: Audio, rate: int, name: str = "", array_rate: int | None = None
) -> Iterator[Float[np.ndarray, " n"]]:
    """Reads one recording of any length piece by piece; the pieces together are what `read_audio` returns.

    Args:
        item: as for `read_audio`, and the other arguments too.
        rate: of the result, in Hz.
        name: what errors call the recording.
        array_rate: sample rate of samples that come alone.

    Raises:
        AudioError: where the fault is met.
    """
    if isinstance(item, bytes):
        yield from stream_audio(item, rate, name=f"{name or 'clip'} ({len(item)} bytes)")
    elif isinstance(item, (str, os.PathLike)):
        try:
            yield from stream_audio(item, rate)
        except AudioError as error:
            raise named(error, name) from error
    else:
        samples, own_rate = _samples_and_rate(item, name or "clip", array_rate)
        yield from stream_array(samples, own_rate, rate, name=name or "clip")


def named(error: AudioError, name: str) -> AudioError:
    """Returns the error with the clip's name before it, if it has one."""
    return AudioError(f"{name}: {error}", error.reason) if name else error


def as_list(audio: Any) -> list[Audio]:
    """Returns the clips, after the check that they are not one clip alone.

    Raises:
        AudioError: one clip without a list around it.
    """
    if (
        isinstance(audio, (str, bytes, os.PathLike))
        or hasattr(audio, "__array__")
        or (isinstance(audio, tuple) and len(audio) == 2 and np.ndim(audio[0]) > 0 and np.ndim(audio[1]) == 0)
    ):
        raise AudioError("expected a list of clips, found one clip: write [clip]")
    if not isinstance(audio, Iterable):
        raise AudioError(f"expected a list of clips, found {audio!r}")
    return list(audio)


def _samples_and_rate(item: Any, name: str, array_rate: int | None) -> tuple[np.ndarray, int]:
    if isinstance(item, tuple) and len(item) == 2:
        samples, rate = item
        if np.ndim(samples) == 0 or np.ndim(rate) > 0:  # as scipy.io.wavfile.read returns them
            raise AudioError(
                f"{name} is a pair ({type(samples).__name__}, {type(rate).__name__}); expected (samples, sample rate), "
                "in this order"
            )
        return np.asarray(samples), rate
    if hasattr(item, "__array__"):  # NumPy, JAX, PyTorch
        if array_rate is None:
            raise AudioError(
                f"{name} is a {type(item).__name__}; expected a path, the bytes of a file, or a pair (samples, sample "
                "rate): samples alone have no rate, so pass sample_rate="
            )
        return np.asarray(item), array_rate
    raise AudioError(
        f"{name} is a {type(item).__name__}; expected a path, the bytes of a file, or a pair (samples, sample rate)"
    )
