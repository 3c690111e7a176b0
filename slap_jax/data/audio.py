"""Decoding of audio files to mono float32 at one sample rate, and the int16 FLAC that records hold.

libsndfile decodes the sound formats. PyAV, if it is installed, decodes containers such as M4A and video.
"""

import io
import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Int16, Shaped

from slap_jax.errors import UserError, printable

Source = str | os.PathLike[str] | bytes | io.BytesIO

# Read by libsndfile, and read by PyAV.
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".oga", ".mp3", ".aif", ".aiff", ".caf", ".au", ".w64")
CONTAINER_SUFFIXES = (".m4a", ".aac", ".mp4", ".m4v", ".mov", ".mkv", ".mka", ".webm", ".wma", ".avi", ".amr", ".3gp")
AUDIO_SUFFIXES = SOUND_SUFFIXES + CONTAINER_SUFFIXES
SAMPLE_RATE = 16_000
RESAMPLE_QUALITY = "HQ"
INT16_SCALE = 32_768.0
_MAX_CHANNELS = 64
BLOCK_FRAMES = 1 << 18  # decoded at a time

# A file with less than this fraction of the samples that its header states is truncated, not merely rounded.
_COMPLETE = 0.9

# Programs that write to a pipe do not know the length and leave 0 or a very large chunk size in the header.
_STREAMED_CHUNK = 0x7FFFF000

# FFmpeg supports formats that refer to other files and addresses, such as playlists. Only formats without such
# references are opened, because the files are untrusted.
_FORMATS = "mov,matroska,aac,asf,avi,flv,mpegts,amr"


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
        f"{name} is not readable as audio ({reason}); expected WAV, FLAC, Ogg, Opus, MP3 or AIFF, intact: {advice}",
        "unreadable_audio",
    )


def decode_audio(source: Source, sample_rate: int = SAMPLE_RATE, name: str = "") -> Float[np.ndarray, " n"]:
    """Decodes a file to mono float32 at one sample rate.

    Supports WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, CAF and everything else that libsndfile reads, and with PyAV
    also M4A, AAC and the sound of videos; 8 to 32 bits, float, any rate, number of channels and duration. Channels are
    averaged, then resampled by soxr (HQ).

    Args:
        source: path, encoded bytes, or a binary buffer.
        sample_rate: sample rate of the result, in Hz.
        name: name for error messages, if the source is not a path.

    Returns:
        Samples [n], n >= 1. Integer formats are scaled to [-1, 1); float files keep their values.

    Raises:
        AudioError: the file is missing, empty, unreadable or truncated, or has NaN or infinite samples.
    """
    name = name or source_name(source)
    rate, blocks = audio_blocks(source, name)
    return _finish(np.concatenate(list(blocks)), rate, sample_rate, name)


def audio_blocks(source: Source, name: str = "") -> tuple[int, Iterator[Float[np.ndarray, " n"]]]:
    """Opens a file to decode it block by block, with one block in memory.

    Args:
        source: as for `decode_audio`.
        name: name for error messages, if the source is not a path.

    Returns:
        The file's own sample rate in Hz, and an iterator over its mono float32 samples, which may raise too.

    Raises:
        AudioError: the file is missing, empty, unreadable or truncated.
    """
    name = name or source_name(source)
    readable = _open(source, name)
    try:
        file = soundfile.SoundFile(readable)
    except (soundfile.SoundFileError, RuntimeError) as error:
        rate, stated, blocks = _container_blocks(readable, name, _reason_of(error))
        return rate, _checked(blocks, rate, lambda samples: stated is None or samples >= _COMPLETE * stated, name)
    comments, stated = file.extra_info, file.frames
    return file.samplerate, _checked(
        _sound_file_blocks(file, name),
        file.samplerate,
        lambda samples: not _is_truncated(comments, stated, samples),
        name,
    )


def prepare_waveform(
    array: Shaped[np.ndarray, " n *channels"], rate: int, sample_rate: int = SAMPLE_RATE, name: str = "audio array"
) -> Float[np.ndarray, " n"]:
    """Converts an array to mono float32 at one sample rate.

    Args:
        array: [n] or [n, channels]; integers are scaled by the range of their type, floats are kept (full scale 1.0).
        rate: sample rate of `array`, in Hz.
        sample_rate: sample rate of the result, in Hz.
        name: name for error messages.

    Returns:
        Samples [n], n >= 1.

    Raises:
        AudioError: the array has another shape or type, is empty, or has NaN or infinite samples, or the rate is not a
            positive integer.
    """
    samples = np.asarray(array)
    if not isinstance(rate, (int, np.integer)) or isinstance(rate, bool) or rate <= 0:
        raise AudioError(f"{name} has sample rate {rate!r}; expected a positive integer in Hz, like 44100")
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > _MAX_CHANNELS):
        raise AudioError(f"{name} has shape {samples.shape}; expected [samples] or [samples, channels]: transpose it")
    if samples.size == 0:
        raise AudioError(f"{name} holds no samples (shape {samples.shape})", "empty_audio")
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128.0) / 128.0
    elif np.issubdtype(samples.dtype, np.signedinteger):
        samples = (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    elif np.issubdtype(samples.dtype, np.floating):
        samples = samples.astype(np.float32)
    else:
        raise AudioError(f"{name} has type {samples.dtype}; expected float, signed integer or uint8 samples")
    return _finish(samples.mean(axis=1) if samples.ndim == 2 else samples, int(rate), sample_rate, name)


def to_int16(samples: Float[np.ndarray, " n"]) -> Int16[np.ndarray, " n"]:
    """Rounds samples with full scale 1.0 to int16 and clips those beyond full scale."""
    return np.clip(np.rint(samples * INT16_SCALE), -32_768, 32_767).astype(np.int16)


def encode_flac(samples: Int16[np.ndarray, " n"], sample_rate: int = SAMPLE_RATE) -> bytes:
    """Compresses mono int16 samples losslessly."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_flac(data: bytes, name: str = "record") -> Int16[np.ndarray, " n"]:
    """Inverts `encode_flac`.

    Raises:
        AudioError: the bytes are damaged.
    """
    try:
        samples, _ = soundfile.read(io.BytesIO(data), dtype="int16")
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(f"{name} holds damaged audio ({error}); run `slap prepare` again") from error
    return samples


def flac_samples(data: bytes, name: str = "record") -> int:
    """Reads the number of samples from the STREAMINFO block at the start of a FLAC stream (RFC 9639, section 8.2).

    Args:
        data: the stream, or at least its first 26 bytes.
        name: name for error messages.

    Raises:
        AudioError: the data are not a FLAC stream, or its writer did not know the number.
    """
    # "fLaC", one byte of block type (0 is STREAMINFO, the highest bit marks the last block), three bytes of length.
    if len(data) < 26 or data[:4] != b"fLaC" or data[4] & 0x7F != 0:
        raise AudioError(f"{name} holds no FLAC stream; run `slap prepare` again")
    # Ten bytes of block and frame sizes, then 20 bits of rate, 3 of channels, 5 of sample size, 36 bits of samples.
    samples = int.from_bytes(data[18:26], "big") & ((1 << 36) - 1)
    if samples == 0:
        raise AudioError(f"{name} does not state how many samples it has; run `slap prepare` again")
    return samples


def decode_flac_into(data: bytes, out: Int16[np.ndarray, " n"], start: int = 0, name: str = "record") -> None:
    """Decodes a part of a stream of `encode_flac` into an existing array, without a copy.

    Args:
        data: mono FLAC of 16 bits.
        out: contiguous; receives the samples from `start` to `start + n`.
        start: first sample to decode.
        name: name for error messages.

    Raises:
        AudioError: the bytes are damaged, or hold fewer samples.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if start:
                file.seek(start)
            decoded = len(file.read(out=out))
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(f"{name} holds damaged audio ({error}); run `slap prepare` again") from error
    if decoded < len(out):
        raise AudioError(
            f"{name} holds damaged audio: {decoded} samples from sample {start}, expected {len(out)}; "
            "run `slap prepare` again"
        )


def source_name(source: Source) -> str:
    """Returns the name of a source in error messages: its path, or "audio bytes"."""
    if isinstance(source, (bytes, io.BytesIO)):
        return "audio bytes"
    return os.fspath(source)


def check_name(file: str) -> None:
    """Raises `AudioError` if a path is not valid UTF-8: it can be neither printed nor written to a text file."""
    try:
        file.encode()
    except UnicodeEncodeError:
        raise AudioError(f"{printable(file)} has a name that is not UTF-8; rename it", "bad_name") from None


def _open(source: Source, name: str) -> str | io.BytesIO:
    """Returns a path or buffer for soundfile, after checking for faults that libsndfile explains badly."""
    if isinstance(source, io.BytesIO):
        source = source.getvalue()
    if isinstance(source, bytes):
        if not source:
            raise AudioError(f"{name} is empty (0 bytes); leave it out", "empty_audio")
        return io.BytesIO(source)
    path = Path(source)
    check_name(str(path))
    if not path.is_file():
        state = "a directory" if path.is_dir() else "a pipe or device" if path.exists() else "missing"
        raise AudioError(f"{name} is {state}; expected an audio file: correct the path", "missing_file")
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        raise AudioError(
            f"{name} cannot be read ({error.strerror}); correct its permissions, or leave it out", "unreadable_file"
        ) from error
    if is_empty:
        raise AudioError(f"{name} is empty (0 bytes); leave it out", "empty_audio")
    return str(path)


def _sound_file_blocks(file: soundfile.SoundFile, name: str) -> Iterator[Float[np.ndarray, " n"]]:
    try:
        with file:
            yield from _mono_blocks(file)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise unreadable(name, _reason_of(error)) from error


def _checked(
    blocks: Iterator[Float[np.ndarray, " n"]], rate: int, is_complete: Callable[[int], bool], name: str
) -> Iterator[Float[np.ndarray, " n"]]:
    """Yields the blocks, and raises at their end if there were no samples or fewer than the header states."""
    samples = 0
    for block in blocks:
        samples += block.size
        yield block
    if samples == 0:
        raise AudioError(f"{name} holds no samples; leave it out", "empty_audio")
    if not is_complete(samples):
        raise AudioError(
            f"{name} is truncated: its header states more than the {samples / rate:.2f} s that it holds; "
            "copy it again, or leave it out",
            "truncated_audio",
        )


def _reason_of(error: Exception) -> str:
    return str(error).rpartition(": ")[2].rstrip(".")


def _mono_blocks(file: soundfile.SoundFile) -> Iterator[Float[np.ndarray, " n"]]:
    """Averages the channels block by block, so that memory does not grow with the number of channels.

    `SoundFile.blocks` is not used, because it yields uninitialised memory for a file that is shorter than its header
    states.
    """
    while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
        yield block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]


def _is_truncated(comments: str, stated_frames: int, frames: int) -> bool:
    if stated_frames < (1 << 60) and frames < _COMPLETE * stated_frames:
        return True
    # The readers of WAV and AIFF take the length from the size of the file, and only comment on that of the header.
    chunk = re.search(r"^\s*(?:data|SSND)\s*:\s*(\d+) \(should be (\d+)\)", comments, re.MULTILINE)
    if chunk is None:
        return False
    stated, actual = int(chunk.group(1)), int(chunk.group(2))
    return 0 < stated < _STREAMED_CHUNK and actual < _COMPLETE * stated


def _finish(samples: Float[np.ndarray, " n"], rate: int, sample_rate: int, name: str) -> Float[np.ndarray, " n"]:
    bad = samples.size - int(np.count_nonzero(np.isfinite(samples)))
    if bad:
        raise AudioError(
            f"{name} has {bad} NaN or infinite samples of {samples.size}; write it again from its source, "
            "or leave it out",
            "nonfinite_audio",
        )
    if rate != sample_rate:
        resampled = soxr.resample(samples, rate, sample_rate, quality=RESAMPLE_QUALITY)
        # A clip shorter than one output sample is still a clip: keep its mean.
        samples = resampled if resampled.size else samples.mean(keepdims=True)
    return np.ascontiguousarray(samples, dtype=np.float32)


def _container_blocks(
    source: str | io.BytesIO, name: str, refused: str
) -> tuple[int, int | None, Iterator[Float[np.ndarray, " n"]]]:
    """Opens the first audio track with PyAV.

    Args:
        source: path, or the encoded bytes.
        name: name for error messages.
        refused: why libsndfile cannot read it.

    Returns:
        The rate in Hz, the number of samples that the container states, if it does, and mono samples block by block.

    Raises:
        AudioError: PyAV is not installed or cannot read it either, now or while decoding, or there is no audio track.
    """
    try:
        import av
        import av.error
    except ImportError as error:
        advice = 'convert it, leave it out, or if it is M4A, AAC or a video, `pip install "slap-jax[video]"`'
        raise unreadable(name, refused, advice) from error
    if isinstance(source, io.BytesIO):
        source.seek(0)
    else:
        source = f"file:{source}"

    def blocks() -> Iterator[np.ndarray]:
        to_float = av.AudioResampler(format="fltp")
        try:
            with container:
                for frame in itertools.chain(container.decode(stream), [None]):
                    for converted in to_float.resample(frame):
                        yield converted.to_ndarray().mean(axis=0)
        except (av.error.FFmpegError, ValueError) as error:  # ValueError if the channels change in the stream
            reason = error.strerror if isinstance(error, av.error.FFmpegError) else error
            raise unreadable(name, f"{refused}; by PyAV: {reason}") from error

    try:
        container = av.open(source, "r", options={"format_whitelist": _FORMATS})
    except (av.error.FFmpegError, ValueError) as error:
        reason = error.strerror if isinstance(error, av.error.FFmpegError) else error
        raise unreadable(name, f"{refused}; by PyAV: {reason}") from error
    if not container.streams.audio:
        container.close()
        raise AudioError(f"{name} has no audio track; leave it out", "empty_audio")
    stream = container.streams.audio[0]
    stated = None
    if stream.duration is not None and stream.time_base is not None:
        stated = round(stream.duration * stream.time_base * stream.rate)
    return stream.rate, stated, blocks()
