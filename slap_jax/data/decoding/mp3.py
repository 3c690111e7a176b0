"""The frames of an MPEG audio file, against the number that its Xing, Info or VBRI header states; joined files.

mpg123, which libsndfile uses, takes the number of frames from that header, and without it from the size of the file and
the bit rate of the first frames. This is wrong for variable bit rates, for large tags, and for joined files.
"""

import dataclasses
import functools
import itertools
import struct

from slap_jax.data.decoding.layout import Layout, Part, SoundBytes

_WINDOW = 1 << 20
_LONGEST_FRAME = 2_881  # layer II, 384 kbit/s at 8 kHz halved; free format is left to the decoder
_SEARCH = 1 << 16  # where the first frame is looked for, after tags
_KBITS = {  # by (MPEG-1, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # by version
_MONO = 0xC0  # the least fourth byte of the header of a frame with one channel
_XING = (b"Xing", b"Info")
_XING_BYTES = 200  # of a frame that holds a complete Xing header


@dataclasses.dataclass
class _Run:
    """Consecutive frames of one recording.

    Attributes:
        start: offset of its first frame.
        end: end of its last complete frame.
        frames: number of complete frames, without that of the header.
        header: the frame with the Xing, Info or VBRI header, if there is one.
    """

    start: int
    end: int
    frames: int = 0
    header: bytes = b""


def tags_end(data: SoundBytes, start: int = 0) -> int:
    """Returns where the ID3v2 tags at the beginning of a file end."""
    while (head := data.read(start, 10))[:3] == b"ID3" and len(head) == 10:
        start += 10 + _tag_size(head)
    return start


def _tag_size(head: bytes) -> int:
    """Returns the size of an ID3v2 tag without its header; each of four bytes counts seven bits."""
    size = functools.reduce(lambda total, byte: total << 7 | byte & 0x7F, head[6:10], 0)
    return size + (10 if head[5] & 0x10 else 0)


def mp3_layout(data: SoundBytes, start: int) -> Layout | None:
    """Returns the layout of an MPEG audio file with a frame at `start`; None if there are no two frames."""
    begin = data.read(start, _SEARCH)
    if len(begin) > 1 and begin[0] == 0xFF and begin[1] & 0xF6 == 0xF0:  # ADTS, which has no layer
        return None
    first = 0 if _frame_at(begin, 0) else _next_frame(begin, 0, None)
    if first == len(begin):
        return None
    runs, is_cut = _runs(data, start + first)
    if not runs:
        return None
    remark, missing = "", 0
    for run, following in itertools.zip_longest(runs, runs[1:]):
        if run.header:
            stated, frames = _stated_frames(run.header), 0
        elif run is runs[0]:
            stated, frames = None, 0
        frames += run.frames
        if following is None or following.header:
            missing = stated - frames if stated is not None else 0
            if abs(missing) > 1:
                remark = remark or f"it states {stated} frames, and {frames} are there"
    if len(runs) == 1 and runs[0].header and not remark and _stated_frames(runs[0].header) is not None:
        return Layout()
    parts = tuple(_part(data, run) for run in runs)
    return Layout(parts, cut=remark) if is_cut and missing > 1 else Layout(parts, remark)


@functools.lru_cache(maxsize=4096)
def _frame(first: int, second: int) -> tuple[int, int] | None:
    """Returns the size of a frame in bytes, and its kind, from the second and third byte of its header."""
    version, layer = first >> 3 & 3, 4 - (first >> 1 & 3)
    bit_rate, rate = second >> 4, second >> 2 & 3
    if first & 0xE0 != 0xE0 or version == 1 or layer == 4 or bit_rate in (0, 15) or rate == 3:
        return None
    bits, padding = 1_000 * _KBITS[version == 3, layer][bit_rate], second >> 1 & 1
    hertz = _RATES[version][rate]
    kind = (first & 0x1E) << 8 | second & 0x0C
    if layer == 1:
        return (12 * bits // hertz + padding) * 4, kind
    return (72 if layer == 3 and version != 3 else 144) * bits // hertz + padding, kind


def _frame_at(window: bytes, at: int) -> tuple[int, int] | None:
    """Returns the size and kind of the frame at an offset, if there is one; kinds differ in rate or channels."""
    if at + 4 > len(window) or window[at] != 0xFF:
        return None
    frame = _frame(window[at + 1], window[at + 2])
    return frame if frame is None or window[at + 3] < _MONO else (frame[0], frame[1] | 1)


def _runs(data: SoundBytes, position: int) -> tuple[list[_Run], bool]:
    """Walks all frames. A run ends at a header, a tag, a frame of another kind, or damage.

    Returns:
        The runs, and whether the last frame is incomplete.
    """
    runs: list[_Run] = []
    kind, last_kind = None, None  # of the frames of the current run, None to start one; of the run before
    window, base, is_cut = b"", position, False
    while position < data.size:
        at = position - base
        if at + 2 * _LONGEST_FRAME > len(window) and base + len(window) < data.size:
            base, at = position, 0
            window = data.read(base, _WINDOW)
        frame = _frame_at(window, at)
        if frame is not None and frame[1] != kind:
            # A chance match is not followed by another frame.
            following = _frame_at(window, at + frame[0])
            if (following is None or following[1] != frame[1]) and position + frame[0] != data.size:
                frame = None
            else:
                kind = last_kind = frame[1]
                runs.append(_Run(position, position))
        if frame is None:
            kind = None
            if window[at : at + 3] == b"ID3" and len(window) >= at + 10:
                position += 10 + _tag_size(window[at : at + 10])
                base, window = position, b""
            else:
                position = base + _next_frame(window, at + 1, last_kind)
            continue
        end = position + frame[0]
        if end > data.size:
            is_cut = True
            break
        run = runs[-1]
        head = window[at : min(at + 44, at + frame[0])]
        if _xing(head) or head[36:40] == b"VBRI":
            if run.frames:
                run = _Run(position, position)
                runs.append(run)
            run.header = window[at : at + frame[0]]
        else:
            run.frames += 1
        run.end = position = end
    return [run for run in runs if run.frames], is_cut


def _next_frame(window: bytes, at: int, kind: int | None) -> int:
    """Returns where the next frame of the kind may start, or the end of the window."""
    while (at := window.find(b"\xff", at)) >= 0:
        frame = _frame_at(window, at)
        if frame is not None and (kind is None or frame[1] == kind):
            following = _frame_at(window, at + frame[0])
            if at + frame[0] + 4 > len(window) or (following is not None and following[1] == frame[1]):
                return at
        at += 1
    return len(window)


def _stated_frames(header: bytes) -> int | None:
    """Returns the number of frames that a Xing, Info or VBRI header states, if it does."""
    if header[36:40] == b"VBRI":
        return int.from_bytes(header[50:54], "big") if len(header) >= 54 else None
    at = _xing(header)
    if not at or len(header) < at + 12 or not header[at + 7] & 1:
        return None
    return int.from_bytes(header[at + 8 : at + 12], "big")


def _xing(header: bytes) -> int:
    """Returns the offset of the Xing or Info header of a frame, or 0; as mpg123, only if nothing else is before it."""
    for name in _XING:
        at = header.find(name, 4, 44)
        if at > 0 and at == 4 + _side_bytes(header) and not any(header[6:at]):
            return at
    return 0


def _side_bytes(header: bytes | bytearray) -> int:
    """Returns the number of bytes between the header and the samples of a frame of layer III."""
    is_mono, is_first = header[3] >= _MONO, header[1] >> 3 & 3 == 3
    checksum = 0 if header[1] & 1 else 2
    return ((17 if is_mono else 32) if is_first else (9 if is_mono else 17)) + checksum


def _part(data: SoundBytes, run: _Run) -> Part:
    """Returns the frames of a run with a header that states their number."""
    start = run.start + len(run.header)
    at = _xing(run.header)
    if at and _stated_frames(run.header) is not None:
        header = bytearray(run.header)
        struct.pack_into(">I", header, at + 8, run.frames)
        if header[at + 7] & 2 and len(header) >= at + 16:
            struct.pack_into(">I", header, at + 12, len(header) + run.end - start)
    else:
        header = _new_header(data.read(start, 4), run.frames, run.end - start)
    return Part(start, run.end, bytes(header))


def _new_header(first: bytes, frames: int, size: int) -> bytearray:
    """Returns a frame with a Xing header, for frames of layer III like the first; nothing for other layers."""
    second = first[1] | 1  # without a checksum
    if second >> 1 & 3 != 1:
        return bytearray()
    for bit_rate in range(1, 15):
        third = bit_rate << 4 | first[2] & 0x0C
        frame = _frame(second, third)
        if frame is not None and frame[0] >= _XING_BYTES:
            header = bytearray(frame[0])
            header[:4] = bytes((0xFF, second, third, first[3]))
            struct.pack_into(">4sIII", header, 4 + _side_bytes(header), b"Xing", 3, frames, size + len(header))
            return header
    return bytearray()
