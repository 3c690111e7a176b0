"""Manifests: JSON lines or CSV files with a row for each clip, or for each caption."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slap_jax.data.collections.caption_text import list_items
from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.fields import (
    DEFAULT_SPLIT,
    CollectionError,
    RejectedClip,
    audio_file,
    collection_name,
    make_entry,
    require_clips,
    text_field,
)
from slap_jax.data.collections.gather import gather_rows
from slap_jax.data.collections.rows import RowFile

_IDENTITY = ("path", "id", "source", "source_package")
# What other collections call these columns. Two of them can be in one file, so they are suggested and not taken.
_USUAL_NAMES = {
    "path": (
        "path",
        "file_path",
        "filepath",
        "audio_path",
        "file_name",
        "filename",
        "file",
        "audio",
        "audio_file",
        "wav",
    ),
    "caption": ("caption", "captions", "text", "raw_text", "sentence", "transcription", "transcript", "description"),
}
_CAPTION_COLUMN = re.compile(r"captions?(_\d+)?")


class Manifest:
    """The clips of a `.jsonl` or `.csv` file.

    Attributes:
        name: `source` of clips whose line states none.
    """

    def __init__(self, path: str | os.PathLike[str], audio_root: str | os.PathLike[str] | None = None, name: str = ""):
        """Checks the header of a CSV file; reads no clip.

        Args:
            path: path of the manifest.
            audio_root: folder that relative paths are relative to and that no path may leave; by default the folder of
                the manifest.
            name: name of the collection; by default that of `audio_root` and the folder above.

        Raises:
            CollectionError: the file is missing or unreadable, or a CSV file lacks columns.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise CollectionError(f"{path} is missing; expected a .jsonl or .csv manifest")
        self.root = Path(audio_root or self.path.parent)
        self.name = name or collection_name(self.root)
        self._caption_columns: list[str] = []
        self._is_csv = self.path.suffix.lower() == ".csv"
        self._rows = RowFile(self.path)
        if self._is_csv:
            columns = self._rows.columns
            self._caption_columns = [column for column in columns if _CAPTION_COLUMN.fullmatch(column)]
            if "path" not in columns or not {*self._caption_columns, "labels"} & {*columns}:
                raise CollectionError(
                    f"{path} has columns {', '.join(columns) or '(none)'}; expected at least path and caption "
                    f"(or caption_1, caption_2, ...) or labels{_suggested_names(columns)}"
                )

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips in the order of their first lines.

        Raises:
            CollectionError: there are none, or the file cannot be read.
        """
        return require_clips(self._entries(), self.path)

    def _entries(self) -> Iterator[Entry | Rejection]:
        for row in gather_rows(self._rows, _IDENTITY, self._typed if self._is_csv else lambda fields: fields):
            where = f"{self.path.name}:{row.number}"
            if row.problem is not None:
                yield row.problem.at(where, _name(row.fields))
            else:
                yield self._entry(row.fields, where)

    def _entry(self, fields: Mapping[str, Any], where: str) -> Entry | Rejection:
        try:
            path = text_field(fields, "path")
            if not path:
                raise RejectedClip("bad_field", "path is missing; expected the path of an audio file")
            audio = audio_file(self.root, path)
            return make_entry(fields, audio, id=path, split=DEFAULT_SPLIT, source=self.name, where=where)
        except RejectedClip as rejected:
            return rejected.at(where, _name(fields))

    def _typed(self, row: Mapping[str, str]) -> dict[str, Any]:
        """Converts the texts of a CSV row to the types that JSON lines hold."""
        fields: dict[str, Any] = {
            key: value for key, value in row.items() if value and key not in (*self._caption_columns, "regions")
        }
        fields["captions"] = [row[column] for column in self._caption_columns if row.get(column)]
        if "labels" in fields:
            fields["labels"] = list_items(fields["labels"]) or fields["labels"].split(";")
        return fields


def _suggested_names(columns: Sequence[str]) -> str:
    """Returns the part of an error that names the columns to rename, "" if none has a usual name."""
    names = [
        f"{column!r} to {name!r}"
        for name, usual in _USUAL_NAMES.items()
        if name not in columns
        for column in columns
        if column.lower().replace(" ", "_") in usual
    ]
    return f": rename {' and '.join(names)}" if names else ""


def _name(fields: Mapping[str, Any]) -> str:
    return str(fields.get("id") or fields.get("path") or "")
