"""Decoding of a file block by block: by libsndfile, with a corrected header where it is wrong, otherwise by PyAV."""

import io
import re
from collections.abc import Iterator

import numpy as np
import soundfile
from jaxtyping import Float

from slap_jax.data.decoding.chunks import chunk_layout
from slap_jax.data.decoding.errors import AudioError, check_channels, check_rate, mention, reason_of, unreadable
from slap_jax.data.decoding.flac import flac_layout
from slap_jax.data.decoding.layout import Layout, PartFile, SoundBytes
from slap_jax.data.decoding.mp3 import mp3_layout, tags_end
from slap_jax.data.decoding.ogg import ogg_layout
from slap_jax.data.decoding.pyav_decoder import container_blocks

# A file with less than this fraction of the samples that its header states is truncated, not merely rounded.
_COMPLETE = 0.9

# What a decoder yields: the sample rate in Hz, and samples [n, channels].
Blocks = Iterator[tuple[int, Float[np.ndarray, "n channels"]]]


def sound_blocks(source: str | bytes, name: str, block_frames: int) -> Blocks:
    """Decodes all of a file.

    Args:
        source: path, or the encoded bytes.
        name: name for error messages.
        block_frames: largest number of samples of a block.

    Yields:
        The sample rate in Hz, and samples [n, channels], n >= 1. Both may change in a file of several recordings.

    Raises:
        AudioError: it is unreadable or truncated, or its rate or its number of channels is not supported.
    """
    with SoundBytes(source) as data:
        layout = _sound_layout(data) or Layout()
        if layout.contradiction:
            raise unreadable(name, f"its header contradicts itself: {layout.contradiction}")
        try:
            if layout.doubt:
                raise ValueError(layout.doubt)
            file = _open(data, layout, 0, source)
            if file.format == "RAW":  # libsndfile takes any bytes in a file called .au, .snd or .vox for mu-law
                file.close()
                raise ValueError("Format not recognised")
        except Exception as error:  # a decoder's, for data that it did not foresee
            refused = reason_of(error)
        else:
            yield from _sound_file_blocks(file, data, layout, source, name, block_frames)
            return
    yield from container_blocks(source, name, refused)


def _sound_layout(data: SoundBytes) -> Layout | None:
    """Returns the layout of a sound file, or None if its format is another, or it is damaged at its beginning."""
    start = tags_end(data)
    magic = data.read(start, 4)
    if magic == b"fLaC":
        return flac_layout(data, start)
    if magic == b"OggS":
        return ogg_layout(data, start)
    if (layout := chunk_layout(data, start)) is not None:
        return layout
    if start > 0 or magic[:1] == b"\xff":
        return mp3_layout(data, start)
    return None


class _SequentialFile(soundfile.SoundFile):
    """A file that is only read from its beginning to its end.

    After each read, `SoundFile` seeks to the position where the file is already. In MP3 the next samples are then
    wrong, because their frame refers to bytes of the frames before.
    """

    def seekable(self) -> bool:
        return False


class _Buffer(io.BytesIO):
    """Bytes in memory. libsndfile seeks to anywhere in damaged files, and soundfile would print the exceptions."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return -1


def _open(data: SoundBytes, layout: Layout, part: int, source: str | bytes) -> soundfile.SoundFile:
    if layout.parts:
        return _SequentialFile(PartFile(data, layout.parts[part]))  # type: ignore[arg-type]  (has what it reads)
    return _SequentialFile(_Buffer(source) if isinstance(source, bytes) else source)


def _sound_file_blocks(
    file: soundfile.SoundFile, data: SoundBytes, layout: Layout, source: str | bytes, name: str, block_frames: int
) -> Blocks:
    seconds, part = 0.0, 0
    try:
        while True:
            check_rate(file.samplerate, name)
            check_channels(file.channels, name)
            samples, stated, comments = 0, file.frames, file.extra_info
            with file:
                # `SoundFile.blocks` yields uninitialised memory for a file that is shorter than its header states.
                while len(block := file.read(min(block_frames, max(1, stated - samples)), "float32", always_2d=True)):
                    samples += len(block)
                    seconds += len(block) / file.samplerate
                    yield file.samplerate, block
            part += 1
            if part >= len(layout.parts):
                break
            file = _open(data, layout, part, source)
    except AudioError:
        raise
    except Exception as error:
        if layout.is_cut():
            raise _truncated(name, seconds, "its last frame is incomplete") from error
        raise unreadable(name, reason_of(error)) from error
    if layout.cut:
        raise _truncated(name, seconds, layout.cut)
    if not layout.parts and samples and _is_truncated(comments, stated, samples):
        raise _truncated(name, seconds)
    if layout.remark:
        mention(f"{name} has a wrong header: {layout.remark}")


def _truncated(name: str, seconds: float, detail: str = "") -> AudioError:
    return AudioError(
        f"{name} is truncated: its header states more than the {seconds:.2f} s that it holds"
        f"{f' ({detail})' if detail else ''}; copy it again, or leave it out",
        "truncated_audio",
    )


def _is_truncated(comments: str, stated_frames: int, frames: int) -> bool:
    if stated_frames < (1 << 60) and frames < _COMPLETE * stated_frames:
        return True
    # Some readers take the length from the size of the file, and only comment on that of the header.
    chunk = re.search(r"^\s*(?:data|SSND)\s*:\s*(\d+) \(should be (\d+)\)", comments, re.MULTILINE)
    return chunk is not None and int(chunk.group(1)) > 0 and int(chunk.group(2)) < _COMPLETE * int(chunk.group(1))
