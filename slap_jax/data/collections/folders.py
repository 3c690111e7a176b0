"""Folders of audio files: with a text next to each file, or with a `metadata.csv` or `metadata.jsonl` (audiofolder).

The layout of audiofolder is that of Hugging Face `datasets`, but the rows are read like those of a manifest:
`datasets` infers one type per column from the whole file and raises at the first row that does not fit, where here
that row alone is rejected.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from slap_jax.data.audio import AUDIO_SUFFIXES
from slap_jax.data.collections.columns import caption_columns, label_columns, manifest_fields
from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.fields import (
    DEFAULT_SPLIT,
    FOLDER_SPLITS,
    CollectionError,
    RejectedClip,
    audio_file,
    collection_name,
    make_entry,
    require_clips,
    split_of_folders,
    text_field,
)
from slap_jax.data.collections.gather import gather_rows
from slap_jax.data.collections.rows import RowFile
from slap_jax.data.collections.sidecars import Sidecars

METADATA_FILES = ("metadata.csv", "metadata.jsonl")
FILE_COLUMN = "file_name"


class SidecarFolder:
    """The audio files below a folder, at any depth, each with a `.txt` or `.json` file of the same name.

    Attributes:
        name: `source` of clips whose sidecar states none.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = ""):
        """Reads nothing.

        Args:
            folder: folder with audio files; a first-level folder named like a split ("train", "test") gives the split.
            name: name of the collection; by default that of the folder and the folder above.

        Raises:
            CollectionError: `folder` is not a folder.
        """
        self.root = Path(folder)
        if not self.root.is_dir():
            raise CollectionError(f"{folder} is not a folder; expected one with audio files and a .txt or .json each")
        self.name = name or collection_name(self.root)

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the audio files, sorted by name within each folder.

        Raises:
            CollectionError: there are none.
        """
        return require_clips(self._entries(), self.root)

    def _entries(self) -> Iterator[Entry | Rejection]:
        sidecars = Sidecars(self.root)
        for file in clip_files(self.root):
            if isinstance(file, Rejection):
                yield file
            elif file.suffix.lower() in AUDIO_SUFFIXES:
                yield self._entry(file, sidecars)
            elif orphan := sidecars.orphan(file):
                yield orphan

    def _entry(self, relative: PurePosixPath, sidecars: Sidecars) -> Entry | Rejection:
        id = str(relative)
        first = relative.parts[0]
        split = first if len(relative.parts) > 1 and first in FOLDER_SPLITS else DEFAULT_SPLIT
        try:
            audio = audio_file(self.root, id)
            return make_entry(sidecars.read(relative), audio, id=id, split=split, source=self.name, where=id)
        except RejectedClip as rejected:
            return rejected.at(id, id)


class AudioFolder:
    """The rows of all metadata files below a folder; audio files that no row names are ignored.

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
            folder: folder with metadata files at any depth, whose `file_name` is relative to the metadata file.
            name: name of the collection; by default that of the folder and the folder above.
            split: split of all clips; by default the outermost folder called like a split.
            caption_columns: columns of the captions, best first; by default recognised by name.
            label_columns: columns of the labels; by default recognised by name.

        Raises:
            CollectionError: `folder` is not a folder.
        """
        self.root = Path(folder)
        if not self.root.is_dir():
            raise CollectionError(f"{folder} is not a folder; expected one with metadata.csv or metadata.jsonl")
        self.name = name or collection_name(self.root)
        self._split = split
        self._captions, self._labels = caption_columns, label_columns

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the rows of each metadata file.

        Raises:
            CollectionError: there are none, or a CSV file lacks `file_name` or columns of captions or labels.
        """
        return require_clips(self._entries(), self.root)

    def _entries(self) -> Iterator[Entry | Rejection]:
        for file in clip_files(self.root):
            if isinstance(file, Rejection):
                yield file
            elif file.name in METADATA_FILES:
                yield from self._rows(file)

    def _rows(self, metadata: PurePosixPath) -> Iterator[Entry | Rejection]:
        rows = RowFile(self.root / metadata)
        if rows.columns:
            self._check_columns(rows.path, rows.columns)
        for row in gather_rows(rows, (FILE_COLUMN,), self._fields):
            where = f"{metadata}:{row.number}"
            if row.problem is not None:
                stated = row.fields.get(FILE_COLUMN)
                yield row.problem.at(where, str(metadata.parent / stated) if isinstance(stated, str) else "")
            else:
                yield self._entry(row.fields, metadata.parent, where)

    def _check_columns(self, path: Path, columns: Sequence[str]) -> None:
        listed = f"its columns are {', '.join(columns)}"
        for name in (FILE_COLUMN, *self._captions, *self._labels):
            if name not in columns:
                raise CollectionError(f"{path} has no column {name!r}; {listed}")
        if not (self._captions or self._labels or caption_columns(columns) or label_columns(columns)):
            raise CollectionError(
                f"{path} has no column that looks like captions or labels; {listed}: "
                "name them with caption_columns or label_columns"
            )

    def _fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(row.get("regions"), str):  # CSV has no lists
            row = {**row, "regions": None}
        fields = manifest_fields(row, self._captions or caption_columns(row), self._labels or label_columns(row))
        return {**fields, FILE_COLUMN: text_field(row, FILE_COLUMN)}

    def _entry(self, fields: Mapping[str, Any], folder: PurePosixPath, where: str) -> Entry | Rejection:
        id = ""
        try:
            stated = fields[FILE_COLUMN]
            if not stated:
                raise RejectedClip("bad_field", f"{FILE_COLUMN} is missing; expected the path of an audio file")
            id = str(folder / stated)
            audio = audio_file(self.root, id)
            split = self._split or split_of_folders(PurePosixPath(id))
            return make_entry(fields, audio, id=id, split=split, source=self.name, where=where)
        except RejectedClip as rejected:
            return rejected.at(where, id)


def clip_files(root: Path) -> Iterator[PurePosixPath | Rejection]:
    """Lists the files below a folder as `walk_files`.

    Raises:
        CollectionError: a folder cannot be read, so that nobody knows how many clips are missing.
    """
    for file in walk_files(root):
        if isinstance(file, Rejection) and file.reason == "unreadable_folder":
            raise CollectionError(f"{file.detail}; correct its permissions, or move it out of {root}")
        yield file


def walk_files(root: Path) -> Iterator[PurePosixPath | Rejection]:
    """Lists the files below a folder, sorted by name within each folder; holds one folder's names per level in memory.

    Links to folders are followed, since data folders are often made of them. Hidden files and folders (".name") are
    skipped, and so is "lost+found". A broken link counts as a file, whose reader reports it.

    Args:
        root: the folder.

    Yields:
        Paths relative to `root`; a rejection instead of a folder that cannot be read, or that is a link to a folder
        above it.
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
        with os.scandir(folder) as listing:
            children = sorted((child.name, _is_folder(child)) for child in listing)
    except OSError as error:
        yield Rejection(str(relative), "", "unreadable_folder", f"{folder} cannot be listed: {error.strerror}")
        return
    for name, is_folder in children:
        if name.startswith(".") or name == "lost+found":  # the latter belongs to the file system
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
