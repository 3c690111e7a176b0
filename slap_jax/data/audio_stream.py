"""Samples at one rate from a file or an array of any length, with one piece of it in memory."""

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
    audio_blocks,
    prepare_waveform,
    source_name,
)


def stream_audio(source: Source, sample_rate: int = SAMPLE_RATE, name: str = "") -> Iterator[Float[np.ndarray, " n"]]:
    """Decodes a file piece by piece; the pieces together are `decode_audio` of it, bit for bit.

    Args:
        source: path, encoded bytes, or a binary buffer. All formats of `decode_audio` are read piece by piece.
        sample_rate: of the result, in Hz.
        name: what errors call a source that is not a path.

    Yields:
        Samples [n], n >= 1.

    Raises:
        AudioError: at the first piece if it is missing, empty or unreadable; where they are met if samples are NaN or
            infinite; at the end if the file is broken off.
    """
    rate, blocks = audio_blocks(source, name)
    yield from _resampled(blocks, rate, sample_rate, name or source_name(source))


def stream_array(
    array: Shaped[np.ndarray, " n *channels"], rate: int, sample_rate: int = SAMPLE_RATE, name: str = "audio array"
) -> Iterator[Float[np.ndarray, " n"]]:
    """Converts samples piece by piece; the pieces together are `prepare_waveform` of them, bit for bit.

    Args:
        array: as for `prepare_waveform`.
        rate: sample rate of `array`, in Hz.
        sample_rate: of the result, in Hz.
        name: what errors call the array.

    Raises:
        AudioError: see `prepare_waveform`.
    """
    array = np.asarray(array)
    if array.ndim == 0 or len(array) <= BLOCK_FRAMES:
        yield prepare_waveform(array, rate, sample_rate, name)
        return
    prepare_waveform(array[:1], rate, rate, name)  # refuses what is no audio before anything is yielded
    blocks = (
        prepare_waveform(array[start : start + BLOCK_FRAMES], rate, rate, name)
        for start in range(0, len(array), BLOCK_FRAMES)
    )
    yield from _resampled(blocks, rate, sample_rate, name)


def _resampled(
    blocks: Iterable[Float[np.ndarray, " n"]], rate: int, sample_rate: int, name: str
) -> Iterator[Float[np.ndarray, " n"]]:
    resampler = soxr.ResampleStream(rate, sample_rate, 1, "float32", RESAMPLE_QUALITY) if rate != sample_rate else None
    samples, written = 0, 0
    unanswered: list[np.ndarray] = []
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
            unanswered.append(block)
    if resampler is not None:
        ready = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        if ready.size:
            yield np.ascontiguousarray(ready, np.float32)
        elif written == 0:
            # As in `decode_audio`, a clip shorter than one sample of the result is its mean.
            yield np.concatenate(unanswered).mean(keepdims=True)
