"""The pages of an Ogg file (RFC 3533): streams that follow one another, and streams that end without saying so.

libsndfile reads the first stream only, and refuses an Opus stream whose last page lacks the end-of-stream flag.
"""

import dataclasses
import struct
from collections.abc import Iterator

from slap_jax.data.decoding.layout import Layout, Part, SoundBytes

_WINDOW = 1 << 20
_HEAD = 27  # bytes of a page header, before the table of segments
_LONGEST_PAGE = _HEAD + 255 + 255 * 255
_FIRST, _LAST = 2, 4  # flags of a page
_NO_POSITION = (1 << 64) - 1  # of a page on which no packet ends


@dataclasses.dataclass(frozen=True)
class _Page:
    start: int
    end: int
    flags: int
    position: int


@dataclasses.dataclass
class _Link:
    """One of the streams that follow one another.

    Attributes:
        start: offset of its first page.
        end: end of its last page.
        is_opus: whether it is Opus.
        streams: number of streams that run at the same time.
        last: its last page on which a packet ends.
        is_ended: whether it has a page with the end-of-stream flag.
    """

    start: int
    end: int
    is_opus: bool
    streams: int
    last: _Page
    is_ended: bool


def ogg_layout(data: SoundBytes, start: int) -> Layout | None:
    """Returns the layout of an Ogg file, or None if it holds no page."""
    links: list[_Link] = []
    opening = False  # the first pages of streams that run at the same time follow one another
    for page in _pages(data, start):
        if page.flags & _FIRST and opening:
            links[-1].streams += 1
        elif page.flags & _FIRST:
            is_opus = data.read(page.start + _HEAD + 1, 8) == b"OpusHead"
            links.append(_Link(page.start, page.end, is_opus, 1, page, False))
        elif not links:
            return None
        opening = bool(page.flags & _FIRST)
        link = links[-1]
        link.end = page.end
        link.is_ended |= bool(page.flags & _LAST)
        if page.position != _NO_POSITION:
            link.last = page
    if not links:
        return None
    last = links[-1]
    is_cut = not last.is_ended and data.read(last.end, 4) in (b"OggS", b"Ogg", b"Og", b"O")
    cut = "its last page is incomplete" if is_cut else ""
    if len(links) == 1 and (last.is_ended or not last.is_opus or last.streams > 1) and last.start == 0:
        return Layout(cut=cut)
    return Layout(tuple(_part(data, link) for link in links), cut=cut)


def _pages(data: SoundBytes, position: int) -> Iterator[_Page]:
    """Yields the complete pages; what is between them is damage, which decoders report or skip."""
    window, base = b"", position
    while True:
        at = position - base
        if at + _LONGEST_PAGE > len(window) and base + len(window) < data.size:
            base, at = position, 0
            window = data.read(base, _WINDOW)
        if window[at : at + 4] != b"OggS":
            at = window.find(b"OggS", at)
            if at < 0:
                if base + len(window) >= data.size:
                    return
                position = base + len(window) - 3
                continue
            position = base + at
            continue
        if at + _HEAD > len(window):
            return
        flags, granule, segments = window[at + 5], window[at + 6 : at + 14], window[at + 26]
        size = _HEAD + segments + sum(window[at + _HEAD : at + _HEAD + segments])
        if at + size > len(window):
            following = window.find(b"OggS", at + 4)
            if following < 0:
                return
            position = base + following
            continue
        yield _Page(position, position + size, flags, int.from_bytes(granule, "little"))
        position += size


def _part(data: SoundBytes, link: _Link) -> Part:
    if link.is_ended or not link.is_opus or link.streams > 1:
        return Part(link.start, link.end)
    page = bytearray(data.read(link.last.start, link.last.end - link.last.start))
    page[5] |= _LAST
    page[22:26] = bytes(4)
    page[22:26] = struct.pack("<I", _checksum(page))
    return Part(link.start, link.last.start, tail=bytes(page))


def _checksum_table() -> list[int]:
    table = []
    for value in range(256):
        crc = value << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x1_04C1_1DB7 if crc & 0x8000_0000 else 0)
        table.append(crc)
    return table


_CHECKSUMS = _checksum_table()


def _checksum(page: bytes | bytearray) -> int:
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFF_FFFF) ^ _CHECKSUMS[crc >> 24 ^ byte]
    return crc
