"""The number of samples that a FLAC file states, against that of its last frame (RFC 9639); files that are joined.

libFLAC stops at the stated number, and fails at the end of a file that states none.
"""

import dataclasses
import functools
import re

import soundfile

from slap_jax.data.decoding.layout import Layout, Part, PartFile, SoundBytes

_MARKER = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22", re.DOTALL)  # and the header of STREAMINFO, which comes first
_STREAMINFO = 42  # bytes up to its end
_FRAME = re.compile(rb"\xff[\xf8\xf9]", re.DOTALL)
_WINDOW = 1 << 20
_TAILS = (1 << 16, 1 << 20, 1 << 24)  # where the last frame is looked for: tags may follow it
_RATES = (0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
_BITS = (0, 8, 12, -1, 16, 20, 24, 32)


def _crc8_table() -> bytes:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value << 1) ^ (0x107 if value & 0x80 else 0)
        table.append(value & 0xFF)
    return bytes(table)


_CRC8 = _crc8_table()


@dataclasses.dataclass(frozen=True)
class _Stream:
    """STREAMINFO: sizes of blocks, rate in Hz, channels, bits and the stated number of samples (0 if unknown)."""

    shortest: int
    longest: int
    rate: int
    channels: int
    bits: int
    samples: int


def flac_layout(data: SoundBytes, start: int) -> Layout | None:
    """Returns the layout of a FLAC file whose stream starts at `start`, or None if it must be tried."""
    starts = _markers(data, start)
    if len(starts) == 1:
        return _stream_layout(data, start, data.size)
    parts: list[Part] = []
    remarks: list[str] = []
    last = Layout()
    for first, end in zip(starts, [*starts[1:], data.size], strict=True):
        last = _stream_layout(data, first, end) or Layout()
        if last.doubt:
            return last
        parts += last.parts or [Part(first, end)]
        remarks += filter(None, [last.remark or last.cut])
    return Layout(tuple(parts), next(iter(remarks), ""), last.cut, is_cut=last.is_cut)


def _markers(data: SoundBytes, start: int) -> list[int]:
    """Returns where streams start."""
    starts, at, overlap = [start], start + 4, 8
    while len(block := data.read(at, _WINDOW)) >= overlap:
        place = block.find(b"fLaC")
        while place >= 0:
            if _MARKER.match(block, place):
                starts.append(at + place)
            place = block.find(b"fLaC", place + 4)
        at += len(block) - overlap + 1
    return starts


def _stream_layout(data: SoundBytes, start: int, end: int) -> Layout | None:
    head = data.read(start, _STREAMINFO)
    if len(head) < _STREAMINFO or not _MARKER.match(head):
        return None
    packed = int.from_bytes(head[18:26], "big")
    stream = _Stream(
        int.from_bytes(head[8:10], "big"),
        int.from_bytes(head[10:12], "big"),
        packed >> 44,
        (packed >> 41 & 7) + 1,
        (packed >> 36 & 31) + 1,
        packed & ((1 << 36) - 1),
    )
    last = _last_frame(data, start, end, stream)
    if last is None:
        return Layout(doubt="no frame fits its header")
    before, after = last
    if after == stream.samples:
        return Layout(is_cut=functools.partial(_is_cut, data, start, end, before, after))
    is_cut = _is_cut(data, start, end, before, after)
    held = before if is_cut else after
    part = _stating(data, start, end, held)
    if stream.samples == 0:
        return Layout((part,))
    if held > stream.samples:
        return Layout((part,), f"it states {stream.samples} samples; all {held} that are there are read")
    text = f"it states {stream.samples} samples, and {held} are there"
    return Layout((part,), cut=text) if is_cut else Layout((part,), text)


def _stating(data: SoundBytes, start: int, end: int, samples: int) -> Part:
    """Returns a stream with another stated number of samples."""
    head = bytearray(data.read(start, _STREAMINFO))
    packed = int.from_bytes(head[18:26], "big") >> 36 << 36 | samples
    head[18:26] = packed.to_bytes(8, "big")
    return Part(start + _STREAMINFO, end, bytes(head))


def _is_cut(data: SoundBytes, start: int, end: int, before: int, after: int) -> bool:
    """Returns whether the last frame cannot be decoded, which starts at sample `before` and ends at `after`."""
    try:
        with soundfile.SoundFile(PartFile(data, _stating(data, start, end, after))) as file:  # type: ignore[arg-type]  (has what it reads)
            file.seek(before)
            return len(file.read(after - before, dtype="int32")) < after - before
    except (soundfile.SoundFileError, RuntimeError):
        return True


def _last_frame(data: SoundBytes, start: int, end: int, stream: _Stream) -> tuple[int, int] | None:
    """Returns the first sample of the last frame and the one after its last, or None if there is no frame."""
    for length in _TAILS:
        at = max(start + _STREAMINFO, end - length)
        tail = data.read(at, end - at)
        frames = [frame for match in _FRAME.finditer(tail) if (frame := _frame(tail, match.start(), stream))]
        if any(after == stream.samples for _, after in frames):
            return next(frame for frame in frames if frame[1] == stream.samples)
        if frames:
            return frames[-1]
        if at == start + _STREAMINFO:
            break
    return None


def _frame(data: bytes, at: int, stream: _Stream) -> tuple[int, int] | None:
    """Returns the first sample of the frame at an offset, and the one after its last; None if it is no frame."""
    head = data[at : at + 16]
    if len(head) < 6:
        return None
    block, rate, channels, bits = head[2] >> 4, head[2] & 15, head[3] >> 4, head[3] >> 1 & 7
    if head[3] & 1 or block == 0 or rate == 15 or channels > 10 or bits == 3:
        return None
    if (channels + 1 if channels < 8 else 2) != stream.channels or (bits and _BITS[bits] != stream.bits):
        return None
    if 0 < rate < 12 and _RATES[rate] != stream.rate:
        return None
    number, size = _coded_number(head[4:])
    if size == 0:
        return None
    at = 4 + size
    if block >= 8:
        samples = 256 << (block - 8)
    elif block >= 6:
        length = block - 5
        samples, at = int.from_bytes(head[at : at + length], "big") + 1, at + length
    else:
        samples = 192 if block == 1 else 576 << (block - 2)
    at += 0 if rate < 12 else 1 if rate == 12 else 2
    if at >= len(head):
        return None
    crc = 0
    for byte in head[:at]:
        crc = _CRC8[crc ^ byte]
    if crc != head[at]:
        return None
    first = number if head[1] & 1 else number * stream.longest
    return first, first + samples


def _coded_number(data: bytes) -> tuple[int, int]:
    """Decodes the number of a frame, which is coded like UTF-8, and returns its size in bytes too (0 if it is none)."""
    lead = data[0]
    if lead < 0x80:
        return lead, 1
    size = 8 - (lead ^ 0xFF).bit_length()
    following = data[1:size]
    if not 2 <= size <= 7 or len(following) < size - 1 or any(byte >> 6 != 2 for byte in following):
        return 0, 0
    number = lead & (0x7F >> size)
    for byte in following:
        number = number << 6 | byte & 0x3F
    return number, size
