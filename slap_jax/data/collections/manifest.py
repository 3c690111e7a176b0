"""Manifests: one clip per line of a JSON lines or CSV file.

`read_rows` reads such files for other collections too. A row with a fault does not keep the others from being read.
"""

import codecs
import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.fields import (
    DEFAULT_SPLIT,
    LONGEST_TEXT,
    CollectionError,
    RejectedClip,
    audio_file,
    collection_name,
    decode_text,
    make_entry,
    parse_object,
    require_clips,
    text_field,
)

JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")

_CAPTION_COLUMN = re.compile(r"caption(_\d+)?")

# (number of the first line, the values of the row or why it cannot be read)
Row = tuple[int, dict[str, Any] | RejectedClip]


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
            CollectionError: there are none.
        """
        return require_clips(self._entries(), self.path)

    def _entries(self) -> Iterator[Entry | Rejection]:
        for number, fields in read_rows(self.path):
            where = f"{self.path.name}:{number}"
            if isinstance(fields, RejectedClip):
                yield fields.at(where)
            else:
                yield self._entry(self._typed(fields) if self._is_csv else fields, where)

    def _entry(self, fields: dict[str, Any], where: str) -> Entry | Rejection:
        try:
            path = text_field(fields, "path")
            if not path:
                raise RejectedClip("bad_field", "path is missing; expected the path of an audio file")
            audio = audio_file(self.root, path)
            return make_entry(fields, audio, id=path, split=DEFAULT_SPLIT, source=self.name, where=where)
        except RejectedClip as rejected:
            return rejected.at(where, str(fields.get("id") or fields.get("path") or ""))

    def _typed(self, row: dict[str, str]) -> dict[str, Any]:
        """Converts the texts of a CSV row to the types that JSON lines hold."""
        fields: dict[str, Any] = {
            key: value for key, value in row.items() if value and key not in (*self._caption_columns, "regions")
        }
        fields["captions"] = [row[column] for column in self._caption_columns if row.get(column)]
        if "labels" in fields:
            fields["labels"] = [label.strip() for label in fields["labels"].split(";") if label.strip()]
        return fields


def read_rows(path: Path) -> Iterator[Row]:
    """Reads a `.csv` file, whose values are all texts, or else a JSON lines file. Empty lines are skipped.

    Raises:
        CollectionError: the file is unreadable, UTF-16, or a CSV file without a usable header.
    """
    return _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)


def csv_header(path: Path) -> list[str]:
    """Returns the names of the columns of a CSV file.

    Raises:
        CollectionError: there is no usable header.
    """
    reader = csv.reader(_CsvLines(path), strict=True)
    try:
        columns = [column.strip() for column in next(reader, [])]
    except csv.Error as error:
        raise CollectionError(f"{path} has no CSV header ({error}); save it as comma-separated UTF-8") from error
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise CollectionError(f"{path} has several columns called {repeated[0]!r}; rename all but one")
    return columns


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if isinstance(line, RejectedClip):
            yield number, line
        elif line.strip():
            try:
                yield number, parse_object(line.rstrip(), "the line")
            except RejectedClip as rejected:
                yield number, rejected


def _csv_rows(path: Path) -> Iterator[Row]:
    columns = csv_header(path)
    lines = _CsvLines(path)
    # Without `strict`, a quote that is never closed takes all lines up to the next quote into one field.
    reader = csv.reader(lines, strict=True)
    next(reader)
    while True:
        first = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            place = f"line {first}" if reader.line_num == first else f"lines {first} to {reader.line_num}"
            detail = f"{place}: {error}; write each quote inside a quoted text twice"
            yield first, RejectedClip("bad_csv", detail, clips=max(1, reader.line_num - first + 1))
            continue
        problem = lines.take_problem()
        if problem is not None:
            yield first, problem
        elif len(values) > len(columns):
            detail = f"{len(values)} values for {len(columns)} columns; put texts that hold a comma between quotes"
            yield first, RejectedClip("bad_csv", detail)
        elif any(value.strip() for value in values):
            yield first, dict(zip(columns, values, strict=False))


class _CsvLines(Iterator[str]):
    """Lines for the CSV reader; remembers the first unusable one, since an exception would end the reader."""

    def __init__(self, path: Path):
        self._lines = _lines(path)
        self._problem: RejectedClip | None = None

    def __next__(self) -> str:
        _, line = next(self._lines)
        if not isinstance(line, RejectedClip):
            try:
                return decode_text(line, "the line")
            except RejectedClip as rejected:
                self._problem = self._problem or rejected
                return line.decode("utf-8", errors="replace")
        self._problem = self._problem or line
        return "(too long)\n"

    def take_problem(self) -> RejectedClip | None:
        """Returns the first problem since the last call."""
        problem, self._problem = self._problem, None
        return problem


def _lines(path: Path) -> Iterator[tuple[int, bytes | RejectedClip]]:
    """Yields numbered lines with their ends; holds at most `LONGEST_TEXT` bytes of a line in memory."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise CollectionError(f"{path} cannot be read ({error.strerror}); correct its permissions") from error
    with file:
        number = 0
        # Only "\n" ends a line: captions may hold the other characters that Python treats as line ends.
        while line := file.readline(LONGEST_TEXT + 1):
            number += 1
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise CollectionError(f"{path} is UTF-16 text; save it as UTF-8")
            if len(line) <= LONGEST_TEXT:
                yield number, line
                continue
            while not line.endswith(b"\n") and (line := file.readline(LONGEST_TEXT)):
                pass
            detail = f"the line has more than {LONGEST_TEXT >> 20} MiB; expected one clip per line"
            yield number, RejectedClip("long_text", detail)
