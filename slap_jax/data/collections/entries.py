"""What a collection says about one clip before its audio is decoded: an entry, or the reason why it is left out."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class AudioFile:
    """A whole file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclasses.dataclass(frozen=True)
class ArchiveMember:
    """A file inside an uncompressed tar: `length` bytes from `offset` of the archive."""

    archive: Path
    member: str
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"


@dataclasses.dataclass(frozen=True)
class TableCell:
    """Encoded bytes in a column of a Parquet or Arrow file."""

    table: Path
    column: str
    row: int

    def __str__(self) -> str:
        return f"{self.table}, row {self.row}"


AudioLocation = AudioFile | ArchiveMember | TableCell


@dataclasses.dataclass(frozen=True)
class Entry:
    """One clip of a collection.

    Attributes:
        id: unique within `source`.
        audio: where its encoded audio is.
        captions: not empty texts, best first; may be none where there are labels.
        split: name of the split: letters, digits and underscores.
        labels: "key=value" or plain words.
        regions: (onset s, offset s, caption).
        source: the collection that the clip comes from.
        caption_source: who or what wrote the captions.
        licence: of the audio.
        duration_s: what the collection says, to notice truncated files; None if it says nothing.
        where: file and line, for messages.
    """

    id: str
    audio: AudioLocation
    captions: tuple[str, ...]
    split: str
    labels: tuple[str, ...] = ()
    regions: tuple[tuple[float, float, str], ...] = ()
    source: str = ""
    caption_source: str = ""
    licence: str = ""
    duration_s: float | None = None
    where: str = ""


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A clip that is left out.

    Attributes:
        where: file and line.
        id: as in the collection, "" if unknown.
        reason: one of a few words that are counted.
        detail: what was found and what was expected.
    """

    where: str
    id: str
    reason: str
    detail: str


class Collection(Protocol):
    """Something that lists its clips without decoding audio: a manifest, a folder, tars, tables, a named data set.

    Attributes:
        name: of the collection; the `source` of clips that name none.
    """

    name: str

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips, always in the same order, reading as it goes: it may be far more than memory holds."""
        ...


# Rejections of such reasons are intended: a data set, or the user, leaves the clips out.
EXCLUDED = "excluded_"
