"""Folders with a `metadata.csv` or `metadata.jsonl`, as Hugging Face `datasets` reads them by its `audiofolder`.

Folders of audio files, each with its captions in a `.txt` or `.json` file beside it.

The files of a folder tree in a stable order, with links followed and their loops noticed.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from slap_jax.data.audio import AUDIO_SUFFIXES
from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.fields import (
    DEFAULT_SPLIT,
    FOLDER_SPLITS,
    LONGEST_TEXT,
    PLAIN_FIELDS,
    CollectionError,
    RejectedClip,
    audio_file,
    caption_columns,
    caption_lines,
    caption_texts,
    label_columns,
    label_texts,
    make_entry,
    parse_object,
    some_clips,
    split_of_folders,
    text_field,
)
from slap_jax.data.collections.manifest import csv_header, read_rows

METADATA_FILES = ("metadata.csv", "metadata.jsonl")
FILE_COLUMN = "file_name"


class AudioFolder:
    """The rows of all metadata files below a folder; audio files that no row names are not part of it.

    Attributes:
        name: `source` of the clips.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        name: str = "",
        *,
        split: str = "",
        caption_columns: Sequence[str] = (),
        label_columns: Sequence[str] = (),
    ):
        """Reads nothing.

        Args:
            folder: with metadata files at any depth; their `file_name` is relative to the metadata file.
            name: of the collection; the folder's by default.
            split: of all clips; by default told by the folders' names.
            caption_columns: columns of the captions, best first; by default told by their names.
            label_columns: columns of the labels; likewise.

        Raises:
            CollectionError: it is no folder.
        """
        self.root = Path(folder)
        if not self.root.is_dir():
            raise CollectionError(f"{folder} is no folder; expected one with metadata.csv or metadata.jsonl")
        self.name = name or self.root.resolve().name
        self._split = split
        self._captions, self._labels = caption_columns, label_columns

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the rows of each metadata file.

        Raises:
            CollectionError: there are none, or a CSV lacks `file_name` or columns of captions or labels.
        """
        return some_clips(self._entries(), self.root)

    def _entries(self) -> Iterator[Entry | Rejection]:
        for found in walk_files(self.root):
            if isinstance(found, Rejection):
                yield found
            elif found.name in METADATA_FILES:
                yield from self._rows(found)

    def _rows(self, metadata: PurePosixPath) -> Iterator[Entry | Rejection]:
        path = self.root / metadata
        if path.suffix == ".csv":
            self._check(path, csv_header(path))
        for number, fields in read_rows(path):
            where = f"{metadata}:{number}"
            if isinstance(fields, RejectedClip):
                yield fields.at(where)
            else:
                yield self._entry(fields, metadata.parent, where)

    def _check(self, path: Path, columns: Sequence[str]) -> None:
        listed = f"its columns are {', '.join(columns)}"
        if FILE_COLUMN not in columns:
            raise CollectionError(f"{path} has no column {FILE_COLUMN!r}; {listed}")
        for name in (*self._captions, *self._labels):
            if name not in columns:
                raise CollectionError(f"{path} has no column {name!r}; {listed}")
        if not (self._captions or self._labels or caption_columns(columns) or label_columns(columns)):
            raise CollectionError(
                f"{path} has no column that looks like captions or labels; {listed}: "
                "name them with caption_columns or label_columns"
            )

    def _entry(self, row: Mapping[str, Any], folder: PurePosixPath, where: str) -> Entry | Rejection:
        id = ""
        try:
            stated = text_field(row, FILE_COLUMN)
            if not stated:
                raise RejectedClip("bad_field", f"{FILE_COLUMN} is missing; expected the path of an audio file")
            id = str(folder / stated)
            audio = audio_file(self.root, id)
            split = self._split or split_of_folders(PurePosixPath(id))
            return make_entry(self._fields(row), audio, id=id, split=split, source=self.name, where=where)
        except RejectedClip as rejected:
            return rejected.at(where, id)

    def _fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        captions = self._captions or caption_columns(row)
        fields: dict[str, Any] = {name: row[name] for name in PLAIN_FIELDS if row.get(name)}
        if isinstance(fields.get("regions"), str):  # CSV has no lists
            del fields["regions"]
        if any(name in row for name in captions):
            fields["captions"] = caption_texts(captions, row)
        fields["labels"] = [
            label for name in self._labels or label_columns(row) for label in label_texts(name, row.get(name))
        ]
        return fields


class SidecarFolder:
    """The audio files below a folder, at any depth.

    Attributes:
        name: `source` of clips whose sidecar has none.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = ""):
        """Reads nothing.

        Args:
            folder: with audio files; a first-level folder called like a split ("train", "test" ...) names the split.
            name: of the collection; the folder's by default.

        Raises:
            CollectionError: it is no folder.
        """
        self.root = Path(folder)
        if not self.root.is_dir():
            raise CollectionError(f"{folder} is no folder; expected one with audio files and a .txt or .json each")
        self.name = name or self.root.resolve().name

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the audio files, sorted by name within each folder.

        Raises:
            CollectionError: there are none.
        """
        return some_clips(self._entries(), self.root)

    def _entries(self) -> Iterator[Entry | Rejection]:
        for found in walk_files(self.root):
            if isinstance(found, Rejection):
                yield found
            elif found.suffix.lower() in AUDIO_SUFFIXES:
                yield self._entry(found)

    def _entry(self, relative: PurePosixPath) -> Entry | Rejection:
        where = str(relative)
        first = relative.parts[0]
        split = first if len(relative.parts) > 1 and first in FOLDER_SPLITS else DEFAULT_SPLIT
        try:
            fields = _sidecar_fields(self.root / relative)
            return make_entry(
                fields, audio_file(self.root, where), id=where, split=split, source=self.name, where=where
            )
        except RejectedClip as rejected:
            return rejected.at(where, where)


def _sidecar_fields(audio: Path) -> dict[str, Any]:
    """Reads what stands beside an audio file; a `.json` goes before a `.txt`."""
    for suffix in (".json", ".txt"):
        sidecar = audio.with_suffix(suffix)
        try:
            with sidecar.open("rb") as file:
                data = file.read(LONGEST_TEXT + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RejectedClip("unreadable_file", f"{sidecar.name} cannot be read: {error.strerror}") from error
        if suffix == ".json":
            return parse_object(data, sidecar.name)
        return {"captions": caption_lines(data, sidecar.name)}
    return {}


def walk_files(root: Path) -> Iterator[PurePosixPath | Rejection]:
    """Lists the files below a folder, sorted by name within each folder, which is all that is held in memory.

    Links to folders are followed, as data folders are often made of them. Hidden files and folders (".name") are passed
    over. Broken links count as files: whoever opens them says so.

    Args:
        root: the folder.

    Yields:
        Paths relative to `root`; instead of a folder that links to one that it is in, or that cannot be read, a
        rejection.
    """
    yield from _walk(root, PurePosixPath(), ())


def _walk(
    root: Path, relative: PurePosixPath, above: tuple[tuple[int, int], ...]
) -> Iterator[PurePosixPath | Rejection]:
    folder = root / relative
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            yield Rejection(
                str(relative), "", "link_loop", f"{folder} links to a folder that it is in; remove the link"
            )
            return
        with os.scandir(folder) as found:
            entries = sorted((entry.name, _is_folder(entry)) for entry in found)
    except OSError as error:
        yield Rejection(str(relative), "", "unreadable_folder", f"{folder} cannot be listed: {error.strerror}")
        return
    for name, is_folder in entries:
        if name.startswith("."):
            continue
        if is_folder:
            yield from _walk(root, relative / name, (*above, identity))
        else:
            yield relative / name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Follows links; a link to itself is no folder."""
    try:
        return entry.is_dir()
    except OSError:
        return False
