"""Access to the bytes of a sound file, and views of it with another beginning or end for libsndfile to read."""

import dataclasses
import io
import os
from collections.abc import Callable
from typing import Any


class SoundBytes:
    """Reads any range of a file, or of bytes in memory; safe to share between threads."""

    def __init__(self, source: str | bytes):
        self._data = source if isinstance(source, bytes) else None
        if isinstance(source, bytes):
            self._file, self.size = None, len(source)
        else:
            self._file = open(source, "rb", buffering=0)  # noqa: SIM115  (closed by `close`)
            self.size = os.fstat(self._file.fileno()).st_size

    def read(self, start: int, count: int) -> bytes:
        """Returns up to `count` bytes, fewer at the end."""
        if self._data is not None:
            return self._data[start : start + count]
        assert self._file is not None
        pieces: list[bytes] = []
        while count > 0 and (piece := os.pread(self._file.fileno(), count, start)):
            pieces.append(piece)
            start, count = start + len(piece), count - len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "SoundBytes":
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


@dataclasses.dataclass(frozen=True)
class Part:
    """A sound file of its own within a file: `head`, then the bytes from `start` to `end`, then `tail`.

    Attributes:
        start: first byte that is taken from the file.
        end: end of these bytes.
        head: replaces the bytes before `start`.
        tail: replaces the bytes after `end`.
    """

    start: int
    end: int
    head: bytes = b""
    tail: bytes = b""


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the bytes of a sound file say about its length.

    Attributes:
        parts: sound files that follow one another, to decode instead of the file; empty if its header is right.
        remark: how the header is wrong, if it is.
        cut: what the header states, if the data end before that, inside a frame or chunk.
        doubt: why libsndfile would misread the file, so that PyAV must try.
        contradiction: where the header contradicts itself, so that every decoder would make noise of it.
        is_cut: asked when decoding fails: do the data end inside a frame?
    """

    parts: tuple[Part, ...] = ()
    remark: str = ""
    cut: str = ""
    doubt: str = ""
    contradiction: str = ""
    is_cut: Callable[[], bool] = lambda: False


class PartFile(io.RawIOBase):
    """A part as a file object."""

    def __init__(self, data: SoundBytes, part: Part):
        super().__init__()
        self._data, self._part, self._position = data, part, 0
        self._middle = part.end - part.start
        self._size = len(part.head) + self._middle + len(part.tail)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._read_at(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _read_at(self, position: int, count: int) -> bytes:
        head, tail = self._part.head, self._part.tail
        data = head[position : position + count]
        if len(data) < count and position + len(data) < len(head) + self._middle:
            offset = position + len(data) - len(head)
            data += self._data.read(self._part.start + offset, min(count - len(data), self._middle - offset))
        if len(data) < count and (offset := position + len(data) - len(head) - self._middle) >= 0:
            data += tail[offset : offset + count - len(data)]
        return data
