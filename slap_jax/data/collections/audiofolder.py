"""Folders with a `metadata.csv` or `metadata.jsonl`, as Hugging Face `datasets` reads them by its `audiofolder`."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from slap_jax.data.collections.column_names import (
    PLAIN_FIELDS,
    caption_columns,
    caption_texts,
    label_columns,
    label_texts,
)
from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.entry_fields import (
    CollectionError,
    RejectedClip,
    audio_file,
    make_entry,
    some_clips,
    split_of_folders,
    text_field,
)
from slap_jax.data.collections.folder_walk import walk_files
from slap_jax.data.collections.text_rows import csv_header, read_rows

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
