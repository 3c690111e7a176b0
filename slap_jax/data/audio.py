"""Decoding of audio files to mono float32 at one sample rate, and the int16 FLAC that records hold.

libsndfile decodes the sound formats, all of what a file holds even where its header states less. PyAV decodes
containers such as M4A and video, and what else libsndfile does not know.
"""

import errno
import io
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Int16, Shaped

from slap_jax.data.decoding.channel_mixer import ChannelMixer
from slap_jax.data.decoding.errors import MAX_CHANNELS, AudioError, check_rate, reason_of, unreadable
from slap_jax.data.decoding.sound_decoder import Blocks, sound_blocks
from slap_jax.errors import printable

Source = str | os.PathLike[str] | bytes | io.BytesIO

# Read by libsndfile, and read by PyAV. Of several files with one name, the first suffix is preferred.
SOUND_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".opus", ".oga", ".mp3", ".aif", ".aiff", ".caf", ".au", ".w64"),
    *(".wave", ".bwf", ".rf64", ".aifc", ".aiffc", ".snd", ".sph", ".nist", ".voc", ".mp2", ".mpga"),
    *(".8svx", ".avr", ".ircam", ".paf", ".pvf"),
)
CONTAINER_SUFFIXES = (
    *(".m4a", ".aac", ".mp4", ".m4v", ".mov", ".mkv", ".mka", ".webm", ".wma", ".avi", ".amr", ".3gp"),
    *(".m4b", ".m4r", ".f4a", ".f4v", ".3g2", ".qt", ".weba", ".ogv", ".ogx", ".flv", ".asf", ".wmv", ".divx"),
    *(".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".ac3", ".eac3", ".ec3", ".wv", ".tta"),
)
AUDIO_SUFFIXES = SOUND_SUFFIXES + CONTAINER_SUFFIXES
SAMPLE_RATE = 16_000
RESAMPLE_QUALITY = "HQ"
INT16_SCALE = 32_768.0
BLOCK_FRAMES = 1 << 18  # decoded at a time


def decode_audio(source: Source, sample_rate: int = SAMPLE_RATE, name: str = "") -> Float[np.ndarray, " n"]:
    """Decodes a file to mono float32 at one sample rate.

    Supports WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, CAF and everything else that libsndfile reads, M4A, AAC and the
    sound of videos; 8 to 32 bits, float, rates of 1 kHz to 1 MHz, up to 64 channels, any duration. All of a file is
    decoded, even if its header states another length. Channels are averaged, then resampled by soxr (HQ).

    Args:
        source: path, encoded bytes, or a binary buffer.
        sample_rate: sample rate of the result, in Hz.
        name: name for error messages, if the source is not a path.

    Returns:
        Samples [n], n >= 1. Integer formats are scaled to [-1, 1); float files keep their values.

    Raises:
        AudioError: the file is missing, empty, unreadable or truncated, or it has NaN or infinite samples, floats of
            integer scale, or channels that cancel each other.
    """
    name = name or source_name(source)
    rate, blocks = audio_blocks(source, name)
    try:
        return _finish(np.concatenate(list(blocks)), rate, sample_rate, name)
    except MemoryError as error:
        raise AudioError(f"{name} needs more memory than there is; cut it, or leave it out", "too_large") from error


def stream_audio(source: Source, sample_rate: int = SAMPLE_RATE, name: str = "") -> Iterator[Float[np.ndarray, " n"]]:
    """Decodes a file block by block; the concatenated blocks equal `decode_audio` of it, bit for bit.

    Args:
        source: path, encoded bytes, or a binary buffer, in any format of `decode_audio`.
        sample_rate: sample rate of the result, in Hz.
        name: name for error messages, if the source is not a path.

    Yields:
        Samples [n], n >= 1.

    Raises:
        AudioError: before the first block if the file is missing, empty or unreadable; at the first NaN or infinite
            sample; at the end if the file is truncated.
    """
    rate, blocks = audio_blocks(source, name)
    yield from _resampled(blocks, rate, sample_rate, name or source_name(source))


def audio_blocks(source: Source, name: str = "") -> tuple[int, Iterator[Float[np.ndarray, " n"]]]:
    """Opens a file to decode it block by block, with one block in memory.

    Args:
        source: as for `decode_audio`.
        name: name for error messages, if the source is not a path.

    Returns:
        The file's own sample rate in Hz, and an iterator over its mono float32 samples, which may raise too. If a file
        consists of recordings of several rates, it is that of the first, to which the others are resampled.

    Raises:
        AudioError: the file is missing, empty, unreadable or truncated.
    """
    name = name or source_name(source)
    blocks = sound_blocks(_readable(source, name), name, BLOCK_FRAMES)
    try:
        first = next(blocks, None)  # only frames state the rate of some formats
    except AudioError:
        raise
    except Exception as error:  # of any decoder, for data that it did not foresee; MemoryError too
        raise unreadable(name, reason_of(error)) from error
    if first is None:
        raise AudioError(f"{name} holds no samples; leave it out", "empty_audio")
    return first[0], _mono_blocks(itertools.chain([first], blocks), first[0], name)


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
        AudioError: the array has another shape or type, is empty, has NaN or infinite samples, floats of integer scale
            or channels that cancel each other, or the rate is not an integer within `SAMPLE_RATES`.
    """
    return _finish(np.concatenate(list(array_blocks(array, rate, name))), int(rate), sample_rate, name)


def stream_array(
    array: Shaped[np.ndarray, " n *channels"], rate: int, sample_rate: int = SAMPLE_RATE, name: str = "audio array"
) -> Iterator[Float[np.ndarray, " n"]]:
    """Converts an array block by block; the concatenated blocks equal `prepare_waveform` of it, bit for bit.

    Args:
        array: as for `prepare_waveform`.
        rate: sample rate of `array`, in Hz.
        sample_rate: sample rate of the result, in Hz.
        name: name for error messages.

    Yields:
        Samples [n], n >= 1.

    Raises:
        AudioError: see `prepare_waveform`.
    """
    array = np.asarray(array)
    if array.ndim == 0 or len(array) <= BLOCK_FRAMES:
        yield prepare_waveform(array, rate, sample_rate, name)
        return
    yield from _resampled(array_blocks(array, rate, name), int(rate), sample_rate, name)


def array_blocks(
    array: Shaped[np.ndarray, " n *channels"], rate: int, name: str = "audio array"
) -> Iterator[Float[np.ndarray, " n"]]:
    """Converts an array to mono float32 block by block.

    Args:
        array: as for `prepare_waveform`.
        rate: sample rate of `array`, in Hz, which is only checked.
        name: name for error messages.

    Raises:
        AudioError: see `prepare_waveform`; NaN and infinite samples are left to the caller.
    """
    samples = np.asarray(array)
    if not isinstance(rate, (int, np.integer)) or isinstance(rate, bool) or rate <= 0:
        raise AudioError(f"{name} has sample rate {rate!r}; expected a positive integer in Hz, like 44100")
    check_rate(int(rate), name)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > MAX_CHANNELS):
        raise AudioError(f"{name} has shape {samples.shape}; expected [samples] or [samples, channels]: transpose it")
    if samples.size == 0:
        raise AudioError(f"{name} holds no samples (shape {samples.shape})", "empty_audio")
    mixer = ChannelMixer(name)
    for start in range(0, len(samples), BLOCK_FRAMES):
        block = _as_float32(samples[start : start + BLOCK_FRAMES], name)
        yield mixer.mix(block if block.ndim == 2 else block[:, None])
    mixer.finish()


def _as_float32(samples: Shaped[np.ndarray, " n *channels"], name: str) -> Float[np.ndarray, " n *channels"]:
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(samples.dtype, np.signedinteger):
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    if np.issubdtype(samples.dtype, np.floating):
        with np.errstate(over="ignore"):  # becomes infinite, which is reported
            return samples.astype(np.float32)
    raise AudioError(f"{name} has type {samples.dtype}; expected float, signed integer or uint8 samples")


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
    """Raises `AudioError` if a path has a null character, or is not UTF-8: it cannot be written to a text file."""
    if "\0" in file:
        raise AudioError(f"{file!r} is not a path: it has a null character; correct it", "bad_name")
    try:
        file.encode()
    except UnicodeEncodeError:
        raise AudioError(f"{printable(file)} has a name that is not UTF-8; rename it", "bad_name") from None


def _readable(source: Source, name: str) -> str | bytes:
    """Returns a path or bytes to decode, after checking for faults that decoders explain badly."""
    if isinstance(source, io.BytesIO):
        source = source.getvalue()
    if isinstance(source, bytes):
        if not source:
            raise AudioError(f"{name} is empty (0 bytes); leave it out", "empty_audio")
        return source
    path = Path(source)
    check_name(str(path))
    try:
        if not path.is_file():
            state = "a directory" if path.is_dir() else "a pipe or device" if path.exists() else "missing"
            raise AudioError(f"{name} is {state}; expected an audio file: correct the path", "missing_file")
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        advice = "correct the path" if error.errno == errno.ENAMETOOLONG else "correct its permissions, or leave it out"
        raise AudioError(f"{name} cannot be read ({error.strerror}); {advice}", "unreadable_file") from error
    if is_empty:
        raise AudioError(f"{name} is empty (0 bytes); leave it out", "empty_audio")
    return str(path)


def _mono_blocks(blocks: Blocks, rate: int, name: str) -> Iterator[Float[np.ndarray, " n"]]:
    """Averages the channels, and resamples what has another rate."""
    mixer = ChannelMixer(name)
    own_rate, resampler = rate, None
    for block_rate, block in blocks:
        mono = mixer.mix(block)
        if block_rate != own_rate:
            if resampler is not None:
                yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            resampler = None
            if block_rate != rate:
                resampler = soxr.ResampleStream(block_rate, rate, 1, "float32", RESAMPLE_QUALITY)
            own_rate = block_rate
        yield mono if resampler is None else resampler.resample_chunk(np.ascontiguousarray(mono))
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    mixer.finish()


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


def _resampled(
    blocks: Iterable[Float[np.ndarray, " n"]], rate: int, sample_rate: int, name: str
) -> Iterator[Float[np.ndarray, " n"]]:
    resampler = soxr.ResampleStream(rate, sample_rate, 1, "float32", RESAMPLE_QUALITY) if rate != sample_rate else None
    samples, written = 0, 0
    pending: list[np.ndarray] = []  # blocks before the first output sample
    for block in blocks:
        if not np.isfinite(block).all():
            at = (samples + int(np.argmin(np.isfinite(block)))) / rate
            raise AudioError(
                f"{name} has NaN or infinite samples, the first at {at:.3f} s; write it again from its source, or "
                "leave it out",
                "nonfinite_audio",
            )
        samples += block.size
        ready = block if resampler is None else resampler.resample_chunk(block)
        written += ready.size
        if ready.size:
            yield np.ascontiguousarray(ready, np.float32)
        elif written == 0:
            pending.append(block)
    if resampler is not None:
        ready = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        if ready.size:
            yield np.ascontiguousarray(ready, np.float32)
        elif written == 0:
            # As in `decode_audio`, a clip shorter than one output sample becomes its mean.
            yield np.concatenate(pending).mean(keepdims=True)
