"""Audio in, mono float samples at one rate out; and the int16 FLAC that records hold.

Sound in containers that libsndfile does not know, M4A and videos above all, decoded by PyAV if it is installed.
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

from slap_jax.errors import UserError

Source = str | os.PathLike[str] | bytes | io.BytesIO

# What libsndfile reads, and what PyAV reads where it is installed.
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".oga", ".mp3", ".aif", ".aiff", ".caf", ".au", ".w64")
CONTAINER_SUFFIXES = (".m4a", ".aac", ".mp4", ".m4v", ".mov", ".mkv", ".mka", ".webm", ".wma", ".avi", ".amr", ".3gp")
AUDIO_SUFFIXES = SOUND_SUFFIXES + CONTAINER_SUFFIXES
SAMPLE_RATE = 16_000
RESAMPLE_QUALITY = "HQ"
INT16_SCALE = 32_768.0
_MOST_CHANNELS = 64
BLOCK_FRAMES = 1 << 18

# A file with less than this share of the samples that its header promises is broken off, not merely rounded.
_COMPLETE = 0.9

# Writers to a pipe do not know the length and leave 0 or a very large chunk size in the header.
_STREAMED_CHUNK = 0x7FFFF000


class AudioError(UserError, ValueError):
    """Audio that cannot be used; the message names the file, what was found and what to do.

    Attributes:
        reason: a word for counting.
    """

    def __init__(self, message: str, reason: str = "bad_audio"):
        super().__init__(message)
        self.reason = reason


def unreadable(name: str, reason: str, advice: str = "convert it, or leave it out") -> AudioError:
    """Returns the error for what is no audio, or damaged."""
    return AudioError(
        f"{name} is not readable as audio ({reason}); expected WAV, FLAC, Ogg, Opus, MP3 or AIFF, intact: {advice}",
        "unreadable_audio",
    )


def decode_audio(source: Source, sample_rate: int = SAMPLE_RATE, name: str = "") -> Float[np.ndarray, " n"]:
    """Decodes a file to mono float32 at one sample rate.

    Reads what libsndfile reads: WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, CAF and others; 8 to 32 bits, float; any
    rate, number of channels and duration. Where PyAV is installed, M4A, AAC and the sound of videos too. Channels are
    averaged, then resampled by soxr (HQ).

    Args:
        source: path, encoded bytes, or a binary buffer.
        sample_rate: of the result, in Hz.
        name: what errors call a source that is not a path.

    Returns:
        Samples [n], n >= 1. Integer formats are scaled to [-1, 1); float files keep their values.

    Raises:
        AudioError: missing, empty, unreadable, broken off, or with NaN or infinite samples.
    """
    name = name or source_name(source)
    rate, blocks = audio_blocks(source, name)
    return _finish(np.concatenate(list(blocks)), rate, sample_rate, name)


def audio_blocks(source: Source, name: str = "") -> tuple[int, Iterator[Float[np.ndarray, " n"]]]:
    """Opens a file to be decoded piece by piece, with one piece in memory.

    Args:
        source: as for `decode_audio`.
        name: what errors call a source that is not a path.

    Returns:
        The file's own sample rate in Hz, and its mono float32 samples in order; reading on may raise, too.

    Raises:
        AudioError: missing, empty, unreadable, or broken off.
    """
    name = name or source_name(source)
    readable = _open(source, name)
    try:
        file = soundfile.SoundFile(readable)
    except (soundfile.SoundFileError, RuntimeError) as error:
        rate, promised, blocks = container_blocks(readable, name, _reason_of(error))
        return rate, _checked(blocks, rate, lambda samples: promised is None or samples >= _COMPLETE * promised, name)
    comments, promised = file.extra_info, file.frames
    return file.samplerate, _checked(
        _sound_file_blocks(file, name),
        file.samplerate,
        lambda samples: not _is_broken_off(comments, promised, samples),
        name,
    )


def prepare_waveform(
    array: Shaped[np.ndarray, " n *channels"], rate: int, sample_rate: int = SAMPLE_RATE, name: str = "audio array"
) -> Float[np.ndarray, " n"]:
    """Brings samples that are already in memory to mono float32 at one sample rate.

    Args:
        array: [n] or [n, channels]; integers are scaled by their type, floats are taken as they are (full scale 1.0).
        rate: sample rate of `array`, in Hz.
        sample_rate: of the result, in Hz.
        name: what errors call the array.

    Returns:
        Samples [n], n >= 1.

    Raises:
        AudioError: another shape or type, an empty array, NaN or infinite samples, a rate that is not positive.
    """
    samples = np.asarray(array)
    if not isinstance(rate, (int, np.integer)) or isinstance(rate, bool) or rate <= 0:
        raise AudioError(f"{name} has sample rate {rate!r}; expected a positive integer in Hz, like 44100")
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > _MOST_CHANNELS):
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
    """Rounds samples of full scale 1.0 to int16; what lies beyond full scale is clipped."""
    return np.clip(np.rint(samples * INT16_SCALE), -32_768, 32_767).astype(np.int16)


def encode_flac(samples: Int16[np.ndarray, " n"], sample_rate: int = SAMPLE_RATE) -> bytes:
    """Compresses mono int16 samples without loss."""
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
    """Reads the number of samples from the STREAMINFO block that every FLAC stream starts with (RFC 9639, section 8.2).

    Args:
        data: the stream, or at least its first 26 bytes.
        name: what errors call it.

    Raises:
        AudioError: not a FLAC stream, or one whose writer did not know the number.
    """
    # "fLaC", one byte of block type (0 = STREAMINFO, the highest bit marks the last block), three of its length.
    if len(data) < 26 or data[:4] != b"fLaC" or data[4] & 0x7F != 0:
        raise AudioError(f"{name} holds no FLAC stream; run `slap prepare` again")
    # Ten bytes of block and frame sizes, then 20 bits of rate, 3 of channels, 5 of sample size, 36 of samples.
    samples = int.from_bytes(data[18:26], "big") & ((1 << 36) - 1)
    if samples == 0:
        raise AudioError(f"{name} does not say how many samples it has; run `slap prepare` again")
    return samples


def decode_flac_into(data: bytes, out: Int16[np.ndarray, " n"], start: int = 0, name: str = "record") -> None:
    """Decodes a part of what `encode_flac` wrote, without a copy.

    Args:
        data: mono FLAC of 16 bits.
        out: contiguous; receives the samples from `start` to `start + n`.
        start: first sample that is wanted.
        name: what errors call the stream.

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
    """Returns what errors call a source that was given no name."""
    if isinstance(source, (bytes, io.BytesIO)):
        return "audio bytes"
    return os.fspath(source)


def _open(source: Source, name: str) -> str | io.BytesIO:
    """Returns what soundfile can open, after the checks whose failure libsndfile explains badly."""
    if isinstance(source, io.BytesIO):
        source = source.getvalue()
    if isinstance(source, bytes):
        if not source:
            raise AudioError(f"{name} is empty (0 bytes); leave it out", "empty_audio")
        return io.BytesIO(source)
    path = Path(source)
    if not path.is_file():
        found = "a directory" if path.is_dir() else "a pipe or device" if path.exists() else "missing"
        raise AudioError(f"{name} is {found}; expected an audio file: correct the path", "missing_file")
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
    """Passes blocks on, and at their end raises if there were none or fewer than the header promises."""
    samples = 0
    for block in blocks:
        samples += block.size
        yield block
    if samples == 0:
        raise AudioError(f"{name} holds no samples; leave it out", "empty_audio")
    if not is_complete(samples):
        raise AudioError(
            f"{name} is broken off: its header promises more than the {samples / rate:.2f} s that are there; "
            "copy it again, or leave it out",
            "truncated_audio",
        )


def _reason_of(error: Exception) -> str:
    return str(error).rpartition(": ")[2].rstrip(".")


def _mono_blocks(file: soundfile.SoundFile) -> Iterator[Float[np.ndarray, " n"]]:
    """Mixes block by block, which keeps one channel in memory however many the file has.

    `SoundFile.blocks` is not used: of a file shorter than its header says, it gives uninitialised memory.
    """
    while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
        yield block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]


def _is_broken_off(comments: str, promised_frames: int, frames: int) -> bool:
    if promised_frames < (1 << 60) and frames < _COMPLETE * promised_frames:
        return True
    # WAV and AIFF readers take the length from the file's size and only remark on the header's.
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
        # A clip shorter than one output sample still is a clip: keep its mean rather than nothing.
        samples = resampled if resampled.size else samples.mean(keepdims=True)
    return np.ascontiguousarray(samples, dtype=np.float32)


# FFmpeg knows formats that name other files and addresses, such as playlists; of foreign files none of these is opened.
_FORMATS = "mov,matroska,aac,asf,avi,flv,mpegts,amr"


def container_blocks(
    source: str | io.BytesIO, name: str, refused: str
) -> tuple[int, int | None, Iterator[Float[np.ndarray, " n"]]]:
    """Opens the first audio track.

    Args:
        source: path, or the encoded bytes.
        name: what errors call it.
        refused: why libsndfile does not read it.

    Returns:
        Its rate in Hz, the number of samples that the container promises, if it does, and mono samples piece by piece.

    Raises:
        AudioError: PyAV is not installed, or cannot read it either, at once or on the way, or there is no audio track.
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
        except (av.error.FFmpegError, ValueError) as error:  # the latter where channels change on the way
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
    promised = None
    if stream.duration is not None and stream.time_base is not None:
        promised = round(stream.duration * stream.time_base * stream.rate)
    return stream.rate, promised, blocks()
