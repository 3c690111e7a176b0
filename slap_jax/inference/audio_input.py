"""The forms in which callers pass audio, decoded to mono float32 samples at the model's rate."""

import contextlib
import dataclasses
import numbers
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.data.audio import AudioError, decode_audio, prepare_waveform, stream_array, stream_audio

# Audio is silent if no sample reaches this: one step of 16 bits.
SILENT_PEAK = 2.0**-15
_MOST_CHANNELS = 64  # a second axis longer than this holds samples, not channels


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


class SilenceCheck:
    """Remembers whether a recording that passes block by block has any sound.

    Attributes:
        silent: whether no sample so far has reached `SILENT_PEAK`.
    """

    def __init__(self) -> None:
        self.silent = True

    def hear(self, block: Float[np.ndarray, " n"]) -> None:
        """Takes the next block of samples."""
        # NaN is not silence: the decoder reports it.
        self.silent = self.silent and float(np.abs(block).max(initial=0.0)) < SILENT_PEAK


def silence_error(name: str) -> AudioError:
    """Returns the error of a recording without sound; every way of using a model refuses it."""
    return AudioError(
        f"{name} is silent: no sample reaches one step of 16 bits, so a result would mean nothing; leave it out",
        "silent_audio",
    )


# A path, the bytes of an audio file, a decoded file, (samples, sample rate in Hz), or samples whose rate the caller
# passes separately.
Audio = str | os.PathLike[str] | bytes | DecodedFile | tuple[Any, int] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Recordings:
    """Clips of one call, and how to read them.

    Attributes:
        clips: the clips.
        array_rate: sample rate of bare samples, in Hz.
        numbered: whether messages give the index of a clip.
        allow_silence: whether a silent clip has a result; otherwise it is an error.
    """

    clips: Sequence[Audio]
    array_rate: int | None = None
    numbered: bool = True
    allow_silence: bool = False

    def name(self, index: int) -> str:
        """Returns how messages number a clip."""
        return f"clip {index}" if self.numbered else ""


def as_recordings(audio: Any, array_rate: int | None = None, allow_silence: bool = False) -> Recordings:
    """Returns one clip, or an iterable of clips, as `Recordings`.

    Args:
        audio: a clip in one of the forms of `load_audio`, or an iterable of such clips. An array is one clip.
        array_rate: sample rate of bare samples, in Hz.
        allow_silence: see `Recordings`.

    Raises:
        AudioError: `audio` is neither.
    """
    if _is_one_clip(audio):
        return Recordings([audio], array_rate, numbered=False, allow_silence=allow_silence)
    if not isinstance(audio, Iterable):
        raise AudioError(f"expected a clip or a list of clips, found {audio!r}")
    return Recordings(list(audio), array_rate, allow_silence=allow_silence)


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
        label = _bytes_name(item, name)
        with _decoder_faults(label):
            return decode_audio(item, rate, name=label)
    if isinstance(item, (str, os.PathLike)):
        try:
            with _decoder_faults(os.fspath(item)):
                return decode_audio(item, rate)
        except AudioError as error:
            raise _with_name(error, name) from error
    samples, own_rate, label = _samples_and_rate(item, name or "clip", array_rate)
    return prepare_waveform(samples, own_rate, rate, name=label)


def stream_item(
    item: Audio, rate: int, name: str = "", array_rate: int | None = None
) -> Generator[Float[np.ndarray, " n"], None, None]:
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
        label = _bytes_name(item, name)
        with _decoder_faults(label):
            yield from stream_audio(item, rate, name=label)
    elif isinstance(item, (str, os.PathLike)):
        try:
            with _decoder_faults(os.fspath(item)):
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


def _is_one_clip(audio: Any) -> bool:
    if isinstance(audio, (str, bytes, os.PathLike, DecodedFile)):
        return True
    if hasattr(audio, "__array__"):
        shape = np.shape(audio)
        if len(shape) == 2 and shape[0] < shape[1] and shape[1] > _MOST_CHANNELS:
            raise AudioError(
                f"an array of shape {shape} was given; an array is one clip, [samples] or [samples, channels]: give "
                "several clips as a list, or transpose a clip of [channels, samples]"
            )
        return True
    if isinstance(audio, tuple) and len(audio) == 2:  # a pair of a clip and its rate, in the right or the wrong order
        return _is_number(audio[1]) or _is_number(audio[0])
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Number) or (hasattr(value, "__array__") and np.ndim(value) == 0)


@contextlib.contextmanager
def _decoder_faults(name: str) -> Iterator[None]:
    """Turns what a decoder raises for one file into the error of that file, so that it does not end a job."""
    try:
        yield
    except MemoryError:
        raise AudioError(
            f"{name} needs more memory to decode than there is: its header is damaged, or it is too large; convert "
            "it, or leave it out",
            "too_large",
        ) from None
    except (RuntimeError, OSError) as error:
        raise AudioError(
            f"{name} cannot be decoded ({type(error).__name__}: {error}); convert it, or leave it out",
            "unreadable_audio",
        ) from error


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
