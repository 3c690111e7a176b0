"""The sizes that WAV, RF64, W64, AIFF, CAF and AU files state, against what the files hold.

Writers that stream, crash, or pass 4 GiB leave sizes that are 0, too small or too large, and libsndfile believes most
of them. Where a size is wrong, the file is given to libsndfile with a corrected header.
"""

import dataclasses
import struct

from slap_jax.data.decoding.layout import Layout, Part, SoundBytes

# Writers to a pipe leave 0 or a very large size. Both mean "up to the end".
_STREAMED = 0x7FFFF000
_WRAP = 1 << 32
_LONGEST_RIFF = _WRAP - 1
# A file with less of its samples than this fraction is cut; one with more has a size that was rounded.
_COMPLETE = 0.9
_LARGEST_HEAD = 1 << 20  # chunks before the samples, which the corrected header repeats
# What follows the samples without being a chunk.
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICS")


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """How a format writes its chunks.

    Attributes:
        first: offset of the first chunk.
        name: number of bytes of a name.
        size: `struct` format of a size.
        whole: whether a size includes the name and itself.
        align: chunks start at multiples of this.
        data: name of the chunk with the samples.
        skip: bytes in this chunk before the samples.
        total: offset of the size of the file, if it is stated.
    """

    first: int
    name: int
    size: str
    whole: bool
    align: int
    data: bytes
    skip: int
    total: int | None

    @property
    def head(self) -> int:
        return self.name + struct.calcsize(self.size)


_RIFF = _Chunks(12, 4, "<I", False, 2, b"data", 0, 4)
_RIFX = dataclasses.replace(_RIFF, size=">I")
_AIFF = _Chunks(12, 4, ">I", False, 2, b"SSND", 8, 4)
_CAF = _Chunks(8, 4, ">q", False, 1, b"data", 4, None)
_W64 = _Chunks(40, 16, "<Q", True, 8, b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", 0, 16)
_W64_START = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"


def chunk_layout(data: SoundBytes, start: int = 0) -> Layout | None:
    """Returns the layout of a file of chunks, or None for other formats and for damage that libsndfile explains.

    Args:
        data: the file.
        start: where the sound file begins in it.
    """
    result = _file_layout(data, start)
    if result is None or result[1] == data.size:
        return result and result[0]
    parts: list[Part] = []
    remark, layout = "", Layout()
    while start < data.size:  # files that were joined
        layout, following = _file_layout(data, start) or (Layout(), data.size)
        parts += layout.parts or [Part(start, following)]
        remark = remark or layout.remark
        start = following
    return Layout(tuple(parts), remark, layout.cut)


def _file_layout(data: SoundBytes, start: int) -> tuple[Layout, int] | None:
    """Returns the layout of the file at an offset, and where the next one starts, or the end of all."""
    magic = data.read(start, 16)
    if magic[:4] in (b".snd", b"dns."):
        return _au_layout(data, start, magic)
    if magic[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and magic[8:12] == b"WAVE":
        chunks = _RIFX if magic[:4] == b"RIFX" else _RIFF
    elif magic[:4] == b"FORM" and magic[8:12] in (b"AIFF", b"AIFC"):
        chunks = _AIFF
    elif magic[:4] == b"caff":
        chunks = _CAF
    elif magic == _W64_START:
        chunks = _W64
    else:
        return None
    at, sizes = start + chunks.first, b""
    while (chunk := _chunk(data, at, chunks)) is not None:
        name, body, stated = chunk
        if name == chunks.data:
            return _data_layout(data, start, at, chunks, sizes)
        if name[:4] == b"fmt " and (contradiction := _contradiction(data.read(body, 40), chunks)):
            return Layout(contradiction=contradiction), data.size
        if name == b"ds64":
            sizes = data.read(body, 16)
        at = _after(start, body, stated, chunks)
        if at - start > _LARGEST_HEAD:
            return None
    return None


def _contradiction(header: bytes, chunks: _Chunks) -> str:
    """Returns how the format of samples contradicts itself, if they are integers or floats."""
    if len(header) < 16:
        return ""
    kind, channels, rate, byte_rate, align, bits = struct.unpack(f"{chunks.size[0]}HHIIHH", header[:16])
    if kind == 0xFFFE and len(header) >= 26:
        kind = struct.unpack(f"{chunks.size[0]}H", header[24:26])[0]
    if kind not in (1, 3) or channels == 0 or align == 0:
        return ""
    width, rest = divmod(align, channels)
    if rest == 0 and bits <= 8 * width <= 64:  # 24 bits may be in 4 bytes
        return ""
    # If only this field is wrong, libsndfile ignores it.
    is_alone = byte_rate != rate * align and align <= 8 * channels
    return "" if is_alone else f"{channels} channels of {bits} bits in {align} bytes"


def _data_layout(data: SoundBytes, start: int, at: int, chunks: _Chunks, sizes: bytes) -> tuple[Layout, int]:
    """Returns `_file_layout` of a file with its samples in the chunk at `at`; `sizes` are those of an RF64 file."""
    _, body, stated = _chunk(data, at, chunks) or (b"", at, 0)
    samples = body + chunks.skip
    if len(sizes) == 16 and stated == _LONGEST_RIFF:
        stated = struct.unpack("<QQ", sizes)[1]
    available = data.size - body
    is_narrow = chunks.size[1] == "I" and not sizes
    streamed = stated >= 1 << 62
    if is_narrow:
        streamed = stated == _LONGEST_RIFF or (stated >= _STREAMED and stated > available)
    unknown = streamed or stated <= chunks.skip
    if stated > available or stated < 0 or streamed:
        part = _corrected(data, start, at, chunks, data.size)
        text = f"it states {stated - chunks.skip} bytes of samples, and {data.size - samples} are there"
        return _with_too_few(part, "" if unknown else text, available < _COMPLETE * stated), data.size
    for wrapped in range(stated, available + 1, _WRAP if is_narrow else available + 1):
        end = body + wrapped
        following = _following(data, start, end, chunks, unknown)
        if following is None:
            continue
        remark = "" if wrapped == stated else _too_little(stated, wrapped, chunks.skip)
        part = _corrected(data, start, at, chunks, end) if remark else Part(start, end)
        # libsndfile would read what follows the samples of a W64 file.
        is_whole = not remark and start == 0 and following == data.size and (chunks is not _W64 or end == data.size)
        return Layout(() if is_whole else (part,), remark), following
    remark = "" if unknown else _too_little(stated, available, chunks.skip)
    return Layout((_corrected(data, start, at, chunks, data.size),), remark), data.size


def _with_too_few(part: Part, text: str, is_cut: bool) -> Layout:
    return Layout((part,), cut=text) if is_cut else Layout((part,), text)


def _too_little(stated: int, size: int, skip: int) -> str:
    return f"it states {stated - skip} bytes of samples; all {size - skip} that are there are read"


def _chunk(data: SoundBytes, at: int, chunks: _Chunks) -> tuple[bytes, int, int] | None:
    """Returns the name of the chunk at an offset, where its contents start, and their stated size."""
    head = data.read(at, chunks.head)
    if len(head) < chunks.head:
        return None
    (size,) = struct.unpack(chunks.size, head[chunks.name :])
    return head[: chunks.name], at + chunks.head, size - chunks.head if chunks.whole else size


def _after(start: int, body: int, size: int, chunks: _Chunks) -> int:
    """Returns where the next chunk starts."""
    return body + max(size, 0) + (start - body - max(size, 0)) % chunks.align


def _following(data: SoundBytes, start: int, end: int, chunks: _Chunks, unknown: bool) -> int | None:
    """Looks at what follows the samples.

    Args:
        data: the file.
        start: where the sound file begins in it.
        end: stated end of the samples.
        chunks: its format.
        unknown: the writer did not know the size.

    Returns:
        The size of the file if it is nothing, chunks or a tag; the start of another file of this format that was
        appended; None if it can only be more samples.
    """
    aligned = end + (start - end) % chunks.align
    if data.size - end < chunks.head and not unknown:
        return data.size
    for at in {aligned, end}:  # some writers do not align
        head = data.read(at, 16)
        if head.startswith(_TAGS):
            return data.size
        if _is_start(head):
            return at
        chunk = _chunk(data, at, chunks)
        if chunk is None:
            continue
        name, body, size = chunk
        if all(32 <= byte < 127 for byte in name[:4]) and 0 <= size <= data.size - body:
            # A chunk. Whether more of them follow, or damage, the samples have ended; but another file may follow.
            while (chunk := _chunk(data, at, chunks)) is not None and 0 <= chunk[2] <= data.size - chunk[1]:
                if _is_start(data.read(at, 16)):
                    return at
                at = _after(start, chunk[1], chunk[2], chunks)
            return data.size
    return data.size if not unknown and _only_zeros(data, end) else None


def _is_start(head: bytes) -> bool:
    """Returns whether bytes are the beginning of a file of chunks."""
    return (
        (head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE")
        or (head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"))
        or (head[:4] == b"caff" and head[8:12] == b"desc")
        or (head[:4] == b".snd" and 24 <= int.from_bytes(head[4:8], "big") < 1 << 16)
        or head == _W64_START
    )


def _only_zeros(data: SoundBytes, at: int) -> bool:
    """Returns whether a file is padded with zeros from an offset on."""
    while block := data.read(at, 1 << 16):
        if any(block):
            return False
        at += len(block)
    return True


def _corrected(data: SoundBytes, start: int, at: int, chunks: _Chunks, end: int) -> Part:
    """Returns the file with the samples up to `end`, and with a header that says so."""
    body = at + chunks.head
    head = bytearray(data.read(start, body - start))
    size = end - body
    total = len(head) + size
    if chunks is _RIFF and (head[:4] in (b"RF64", b"BW64") or size >= _LONGEST_RIFF - len(head)):
        return Part(body, end, _rf64_head(bytes(head), size))
    width = chunks.head - chunks.name
    stated = size + (chunks.head if chunks.whole else 0)
    head[-width:] = struct.pack(chunks.size, min(stated, _LONGEST_RIFF) if width == 4 else stated)
    if chunks.total is not None:
        stated = total if chunks.whole else total - 8
        struct.pack_into(chunks.size, head, chunks.total, min(stated, _LONGEST_RIFF) if width == 4 else stated)
    return Part(body, end, bytes(head))


def _rf64_head(head: bytes, size: int) -> bytes:
    """Returns the header of an RF64 file with the chunks of a WAV or RF64 header, except its sizes."""
    kept, at = b"", 12
    while at < len(head) - 8:
        length = struct.unpack("<I", head[at + 4 : at + 8])[0]
        end = at + 8 + length + length % 2
        if head[at : at + 4] != b"ds64":
            kept += head[at:end]
        at = end
    # name, size, size of the file, of the samples, number of samples (unused), table
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, 4 + 36 + len(kept) + 8 + size, size, 0, 0)
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + kept + b"data\xff\xff\xff\xff"


def _au_layout(data: SoundBytes, start: int, magic: bytes) -> tuple[Layout, int] | None:
    order = ">" if magic[:4] == b".snd" else "<"
    if len(magic) < 12:
        return None
    offset, stated = struct.unpack(f"{order}II", magic[4:12])
    if not 24 <= offset <= min(_LARGEST_HEAD, data.size - start):
        return None
    samples = start + offset
    available = data.size - samples
    if stated == available or (0 < stated < available and data.read(samples + stated, 8).startswith(_TAGS)):
        return Layout((Part(start, samples + stated),) if start else ()), data.size
    if 0 < stated < available and _is_start(data.read(samples + stated, 16)):
        return Layout((Part(start, samples + stated),)), samples + stated
    head = bytearray(data.read(start, offset))
    struct.pack_into(f"{order}I", head, 8, min(available, _LONGEST_RIFF))
    part = Part(samples, data.size, bytes(head))
    if stated in (0, _LONGEST_RIFF):
        return Layout((part,)), data.size
    if available > stated:
        return Layout((part,), _too_little(stated, available, 0)), data.size
    text = f"it states {stated} bytes of samples, and {available} are there"
    return _with_too_few(part, text, available < _COMPLETE * stated), data.size
