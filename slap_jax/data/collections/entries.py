"""The items of a collection: one `Entry` per usable clip, one `Rejection` per clip that is left out.

Listing decodes no audio. An entry names where its encoded audio is stored, and `read_audio.py` reads it, in any order
and in any process. Preparation writes entries to JSON lines with `entry_to_json` and reads them back with
`entry_from_json`.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from slap_jax.errors import printable

# Prefix of the reasons of clips that a dataset or the user leaves out on purpose.
EXCLUDED = "excluded_"


@dataclasses.dataclass(frozen=True)
class AudioFile:
    """A whole file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclasses.dataclass(frozen=True)
class ArchiveMember:
    """A file in an uncompressed tar: `length` bytes at `offset` of the archive."""

    archive: Path
    member: str
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"


@dataclasses.dataclass(frozen=True)
class TableCell:
    """Encoded audio in a column of a Parquet or Arrow file; rows count from 0 through the whole file."""

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
        audio: where its encoded audio is stored.
        captions: non-empty texts, best first; may be empty if there are labels.
        split: name of the split: letters, digits and underscores.
        labels: "key=value" or plain words.
        regions: (onset in s, offset in s, caption).
        source: the collection that the clip comes from.
        caption_source: who or what wrote the captions.
        licence: licence of the audio.
        duration_s: seconds as stated by the collection, which detects truncated files; None if not stated.
        group: clips of one group, such as the cuts of a recording or the takes of a speaker, stay in one split when
            `slap prepare --split` divides the collection; "" for a clip on its own.
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
    group: str = ""

    def texts(self) -> tuple[str, ...]:
        """Returns every text that a record stores."""
        captions_of_regions = (caption for _, _, caption in self.regions)
        return (
            *(self.id, self.source, self.caption_source, self.licence),
            *(*self.captions, *self.labels, *captions_of_regions),
        )


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A clip that is left out, or all clips that one fault loses, such as those of a damaged archive.

    Its texts are made `printable`, since file names need not be valid UTF-8.

    Attributes:
        where: file and line.
        id: as in the collection; "" if unknown.
        reason: one of a few words that are counted.
        detail: what was found and what was expected.
        clips: number of clips that are lost, at least 1; every count of rejections adds these.
    """

    where: str
    id: str
    reason: str
    detail: str
    clips: int = 1

    def __post_init__(self) -> None:
        for name in ("where", "id", "detail"):
            object.__setattr__(self, name, printable(getattr(self, name)))


class Collection(Protocol):
    """Anything that lists clips: a manifest, a folder, tars, tables, a published dataset.

    Attributes:
        name: name of the collection; the `source` of clips that state none.
    """

    name: str

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips lazily, always in the same order; there may be more than fit into memory."""
        ...


def reject_unstorable(clips: Sequence[Entry | Rejection]) -> list[Entry | Rejection]:
    """Replaces entries whose texts are not valid Unicode, which no record can store, by rejections."""
    return [clip if isinstance(clip, Rejection) else _storable(clip) for clip in clips]


def file_of(location: AudioLocation) -> Path:
    """Returns the file that holds the audio."""
    match location:
        case AudioFile(path):
            return path
        case ArchiveMember(archive=archive):
            return archive
        case TableCell(table=table):
            return table


def entry_to_json(entry: Entry, **extra: Any) -> str:
    """Writes an entry as one line of JSON.

    Args:
        entry: the entry.
        **extra: further values for the JSON object; `entry_from_json` ignores them.
    """
    values = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}
    location = {field.name: getattr(entry.audio, field.name) for field in dataclasses.fields(entry.audio)}
    values["audio"] = {"kind": type(entry.audio).__name__, **location}
    if not entry.group:
        del values["group"]  # lines without a group equal those of earlier versions, whose shards stay valid
    return json.dumps({**values, **extra}, default=str)


def entry_from_json(line: str | bytes) -> Entry:
    """Inverts `entry_to_json`."""
    values = json.loads(line)
    fields = {field.name: values[field.name] for field in dataclasses.fields(Entry) if field.name in values}
    return Entry(
        **{
            **fields,
            "audio": _location(fields["audio"]),
            "captions": tuple(fields["captions"]),
            "labels": tuple(fields["labels"]),
            "regions": tuple((onset, offset, caption) for onset, offset, caption in fields["regions"]),
        }
    )


def _storable(entry: Entry) -> Entry | Rejection:
    texts = entry.texts()
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        text = next(text for text in texts if text != printable(text))
    else:
        return entry
    if text in (entry.id, entry.source):
        return Rejection(entry.where, entry.id, "bad_name", f"{text!r} is not valid UTF-8; rename the file or folder")
    return Rejection(entry.where, entry.id, "bad_text", f"{text!r:.200} is not valid Unicode; correct the text")


def _location(values: dict[str, Any]) -> AudioLocation:
    match values.pop("kind"):
        case "AudioFile":
            return AudioFile(Path(values["path"]))
        case "ArchiveMember":
            return ArchiveMember(**{**values, "archive": Path(values["archive"])})
        case "TableCell":
            return TableCell(**{**values, "table": Path(values["table"])})
        case kind:
            raise ValueError(f"unknown kind of audio location {kind!r}")
