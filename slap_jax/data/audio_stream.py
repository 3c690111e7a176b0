"""Streaming conversion of a file or array of any length to one sample rate, with one block in memory."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr
from jaxtyping import Float, Shaped

from slap_jax.data.audio import (
    BLOCK_FRAMES,
    RESAMPLE_QUALITY,
    SAMPLE_RATE,
    AudioError,
    Source,
    array_blocks,
    audio_blocks,
    prepare_waveform,
    source_name,
)


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
