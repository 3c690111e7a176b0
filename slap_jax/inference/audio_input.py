"""The forms in which callers pass audio, decoded to mono float32 samples at the model's rate."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.data.audio import AudioError, decode_audio, prepare_waveform
from slap_jax.data.audio_stream import stream_array, stream_audio

# Audio is silent if no sample reaches this: one step of 16 bits.
SILENT_PEAK = 2.0**-15


@dataclasses.dataclass(frozen=True)
class DecodedFile:
    """A file whose samples are already in memory; errors and warnings still name the file.

    Attributes:
        path: path of the file.
        samples: mono float32 samples [n].
        sample_rate: sample rate in Hz.
    """

    path: str
    samples: Float[np.ndarray, " n"] = dataclasses.field(repr=False)
    sample_rate: int


# A path, the bytes of an audio file, a decoded file, (samples, sample rate in Hz), or samples whose rate the caller
# passes separately.
Audio = str | os.PathLike[str] | bytes | DecodedFile | tuple[Any, int] | np.ndarray


def load_audio(item: Audio, rate: int, name: str = "", array_rate: int | None = None) -> Float[np.ndarray, " n"]:
    """Decodes a whole clip into memory.

    Args:
        item: a path, the bytes of an audio file, a `DecodedFile`, a pair (samples, sample rate), or bare samples.
            Samples are [n] or [n, channels], as soundfile returns them. Integers are scaled by the range of their
            type; floats have full scale 1.
        rate: sample rate of the result, in Hz.
        name: name of the clip in error messages; messages about a file also give its path.
        array_rate: sample rate of bare samples, in Hz.

    Returns:
        Mono float32 samples [n], n >= 1.

    Raises:
        AudioError: the audio is unreadable, empty, truncated or contains NaN, or `item` has another form.
    """
    if isinstance(item, bytes):
        return decode_audio(item, rate, name=_bytes_name(item, name))
    if isinstance(item, (str, os.PathLike)):
        try:
            return decode_audio(item, rate)
        except AudioError as error:
            raise _with_name(error, name) from error
    samples, own_rate, label = _samples_and_rate(item, name or "clip", array_rate)
    return prepare_waveform(samples, own_rate, rate, name=label)


def stream_item(
    item: Audio, rate: int, name: str = "", array_rate: int | None = None
) -> Iterator[Float[np.ndarray, " n"]]:
    """Decodes a recording of any length block by block; the blocks concatenate to the result of `load_audio`.

    Args:
        item: as for `load_audio`.
        rate: as for `load_audio`.
        name: as for `load_audio`.
        array_rate: as for `load_audio`.

    Raises:
        AudioError: when the stream reaches the fault.
    """
    if isinstance(item, bytes):
        yield from stream_audio(item, rate, name=_bytes_name(item, name))
    elif isinstance(item, (str, os.PathLike)):
        try:
            yield from stream_audio(item, rate)
        except AudioError as error:
            raise _with_name(error, name) from error
    else:
        samples, own_rate, label = _samples_and_rate(item, name or "clip", array_rate)
        yield from stream_array(samples, own_rate, rate, name=label)


def display_name(item: Audio, name: str = "") -> str:
    """Returns how messages refer to a clip: by its path if it has one, else by `name`."""
    if isinstance(item, DecodedFile):
        return item.path
    return os.fspath(item) if isinstance(item, (str, os.PathLike)) else name or "clip"


def as_list(audio: Any) -> list[Audio]:
    """Returns the clips as a list.

    Raises:
        AudioError: `audio` is a single clip, or not iterable.
    """
    if (
        isinstance(audio, (str, bytes, os.PathLike, DecodedFile))
        or hasattr(audio, "__array__")
        or (isinstance(audio, tuple) and len(audio) == 2 and np.ndim(audio[0]) > 0 and np.ndim(audio[1]) == 0)
    ):
        raise AudioError("expected a list of clips, found one clip: write [clip]")
    if not isinstance(audio, Iterable):
        raise AudioError(f"expected a list of clips, found {audio!r}")
    return list(audio)


def _samples_and_rate(item: Any, name: str, array_rate: int | None) -> tuple[np.ndarray, int, str]:
    """Returns samples, their rate, and the name for error messages."""
    if isinstance(item, DecodedFile):
        return item.samples, item.sample_rate, item.path
    if isinstance(item, tuple) and len(item) == 2:
        samples, rate = item
        if np.ndim(samples) == 0 or np.ndim(rate) > 0:  # scipy.io.wavfile.read returns (rate, samples)
            raise AudioError(
                f"{name} is a pair ({type(samples).__name__}, {type(rate).__name__}); expected (samples, sample rate), "
                "in this order"
            )
        return np.asarray(samples), rate, name
    if hasattr(item, "__array__"):  # NumPy, JAX, PyTorch
        if array_rate is None:
            raise AudioError(
                f"{name} is a {type(item).__name__}; expected a path, the bytes of a file, or a pair (samples, sample "
                "rate): bare samples have no rate, so pass sample_rate="
            )
        return np.asarray(item), array_rate, name
    raise AudioError(
        f"{name} is a {type(item).__name__}; expected a path, the bytes of a file, or a pair (samples, sample rate)"
    )


def _bytes_name(data: bytes, name: str) -> str:
    return f"{name or 'clip'} ({len(data)} bytes)"


def _with_name(error: AudioError, name: str) -> AudioError:
    return AudioError(f"{name}: {error}", error.reason) if name else error
