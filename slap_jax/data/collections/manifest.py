"""Manifests of clips: JSON lines, or CSV."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.entry_fields import (
    DEFAULT_SPLIT,
    CollectionError,
    RejectedClip,
    audio_file,
    make_entry,
    some_clips,
    text_field,
)
from slap_jax.data.collections.text_rows import csv_header, read_rows

_CAPTION_COLUMN = re.compile(r"caption(_\d+)?")


class Manifest:
    """The clips of a `.jsonl` or `.csv` file.

    Attributes:
        name: `source` of clips whose line has none.
    """

    def __init__(self, path: str | os.PathLike[str], audio_root: str | os.PathLike[str] | None = None, name: str = ""):
        """Looks at a CSV's header; reads no clip.

        Args:
            path: of the manifest.
            audio_root: what relative paths are relative to, and what no path may leave; the manifest's folder by
                default.
            name: of the collection; the name of `audio_root` by default.

        Raises:
            CollectionError: the file is missing or cannot be read, or a CSV lacks columns.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise CollectionError(f"{path} is missing; expected a .jsonl or .csv manifest")
        self.root = Path(audio_root or self.path.parent)
        self.name = name or self.root.resolve().name
        self._caption_columns: list[str] = []
        self._is_csv = self.path.suffix.lower() == ".csv"
        if self._is_csv:
            columns = csv_header(self.path)
            self._caption_columns = [column for column in columns if _CAPTION_COLUMN.fullmatch(column)]
            if "path" not in columns or not {*self._caption_columns, "labels"} & {*columns}:
                raise CollectionError(
                    f"{path} has columns {', '.join(columns) or '(none)'}; expected at least path and caption "
                    "(or caption_1, caption_2, ...) or labels"
                )

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips line by line.

        Raises:
            CollectionError: the manifest holds none.
        """
        return some_clips(self._entries(), self.path)

    def _entries(self) -> Iterator[Entry | Rejection]:
        for number, fields in read_rows(self.path):
            where = f"{self.path.name}:{number}"
            if isinstance(fields, RejectedClip):
                yield fields.at(where)
                continue
            if self._is_csv:
                fields = _typed(fields, self._caption_columns)
            yield self._entry(fields, where)

    def _entry(self, fields: dict[str, Any], where: str) -> Entry | Rejection:
        try:
            path = text_field(fields, "path")
            if not path:
                raise RejectedClip("bad_field", "path is missing; expected the path of an audio file")
            audio = audio_file(self.root, path)
            return make_entry(fields, audio, id=path, split=DEFAULT_SPLIT, source=self.name, where=where)
        except RejectedClip as rejected:
            return rejected.at(where, str(fields.get("id") or fields.get("path") or ""))


def _typed(row: dict[str, str], caption_columns: list[str]) -> dict[str, Any]:
    """Brings the texts of a CSV row to what the keys of JSON lines hold."""
    fields: dict[str, Any] = {key: value for key, value in row.items() if value and key not in caption_columns}
    fields.pop("regions", None)
    fields["captions"] = [row[column] for column in caption_columns if row.get(column)]
    if "labels" in fields:
        fields["labels"] = [label.strip() for label in fields["labels"].split(";") if label.strip()]
    return fields
