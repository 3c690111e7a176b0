"""Reads the rows of JSON lines and CSV files. A row with a fault does not keep the others from being read."""

import codecs
import csv
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from slap_jax.data.collections.fields import LONGEST_TEXT, CollectionError, RejectedClip, decode_text, parse_object
from slap_jax.data.collections.git_lfs import describe_pointer, is_pointer

JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")

# Spreadsheets write semicolons where the comma is the decimal mark, and tabs on request.
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}

_POINTER_BYTES = 512


@dataclasses.dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        number: number of its first line, from 1.
        offset: position of its first byte in the file.
        fields: its values by column or key; of a faulty row, those that could be read.
        problem: why the row cannot be used, or None.
    """

    number: int
    offset: int
    fields: Mapping[str, Any]
    problem: RejectedClip | None = None


class RowFile:
    """A `.csv` file, whose values are all texts, or else a JSON lines file.

    Attributes:
        path: path of the file.
        columns: columns of a CSV file.
    """

    def __init__(self, path: Path):
        """Reads the header of a CSV file.

        Raises:
            CollectionError: the file is unreadable, UTF-16, a Git LFS pointer, or a CSV file without a usable header.
        """
        self.path = path
        self._is_csv = path.suffix.lower() == ".csv"
        self._delimiter = csv_delimiter(path) if self._is_csv else ","
        self.columns: Sequence[str] = csv_header(path) if self._is_csv else ()

    def rows(self) -> Iterator[Row]:
        """Reads all rows; empty lines are skipped.

        Raises:
            CollectionError: as the constructor.
        """
        with _open(self.path) as file:
            _refuse_other_files(self.path, file)
            lines = _Lines(file)
            if self._is_csv:
                next(csv.reader(_CsvLines(lines), delimiter=self._delimiter, strict=True), None)
                yield from self._csv_rows(lines)
            else:
                yield from self._json_rows(lines)

    def rows_at(self, places: Sequence[tuple[int, int]]) -> Iterator[Row]:
        """Reads some rows.

        Args:
            places: (number, offset) of the rows.
        """
        with _open(self.path) as file:
            for number, offset in places:
                lines = _Lines(file, number, offset)
                yield next(self._csv_rows(lines) if self._is_csv else self._json_rows(lines))

    def _json_rows(self, lines: "_Lines") -> Iterator[Row]:
        for number, offset, line in lines:
            if isinstance(line, RejectedClip):
                yield Row(number, offset, {}, line)
            elif line.strip():
                try:
                    yield Row(number, offset, parse_object(line.rstrip(), "the line"))
                except RejectedClip as rejected:
                    yield Row(number, offset, {}, rejected)

    def _csv_rows(self, lines: "_Lines") -> Iterator[Row]:
        texts = _CsvLines(lines)
        # Without `strict`, a quote that is never closed takes all lines up to the next quote into one field.
        reader = csv.reader(texts, delimiter=self._delimiter, strict=True)
        while True:
            first, offset = lines.number + 1, lines.offset
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                texts.take_problem()  # of lines that are rejected anyway
                last = lines.number
                place = f"line {first}" if last <= first else f"lines {first} to {last}"
                detail = f"{place}: {error}; write each quote inside a quoted text twice"
                # One row may have taken in the lines of many clips.
                yield Row(first, offset, {}, RejectedClip("bad_csv", detail, clips=max(1, last - first + 1)))
                continue
            if not any(value.strip() for value in values):
                continue
            problem = texts.take_problem()
            if problem is None and len(values) > len(self.columns):
                separator = _DELIMITERS[self._delimiter]
                counts = f"{len(values)} values for {len(self.columns)} columns"
                detail = f"{counts}; put texts with a {separator} between quotes"
                problem = RejectedClip("bad_csv", detail)
            yield Row(first, offset, dict(zip(self.columns, values, strict=False)), problem)


def csv_delimiter(path: Path) -> str:
    """Returns what separates the columns: a comma, or the semicolon or tab of a header that contains no comma.

    Raises:
        CollectionError: the file is unreadable, UTF-16, or a Git LFS pointer.
    """
    with _open(path) as file:
        _refuse_other_files(path, file)
        header = next(_CsvLines(_Lines(file)), "")
    return next((delimiter for delimiter in _DELIMITERS if delimiter in header), ",")


def csv_header(path: Path) -> list[str]:
    """Returns the names of the columns of a CSV file.

    Raises:
        CollectionError: there is no usable header, or the file is unreadable, UTF-16, or a Git LFS pointer.
    """
    delimiter = csv_delimiter(path)
    with _open(path) as file:
        reader = csv.reader(_CsvLines(_Lines(file)), delimiter=delimiter, strict=True)
        try:
            columns = [column.strip() for column in next(reader, [])]
        except csv.Error as error:
            raise CollectionError(f"{path} has no CSV header ({error}); save it as comma-separated UTF-8") from error
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise CollectionError(f"{path} has several columns called {repeated[0]!r}; rename all but one")
    return columns


class _Lines(Iterator[tuple[int, int, bytes | RejectedClip]]):
    """The lines of a file with their numbers and offsets; holds at most `LONGEST_TEXT` bytes of a line in memory.

    Attributes:
        number: number of the last line that was read.
        offset: position of the next line.
    """

    def __init__(self, file: BinaryIO, number: int = 1, offset: int = 0):
        self._file = file
        self.number = number - 1
        self.offset = offset
        file.seek(offset)

    def __next__(self) -> tuple[int, int, bytes | RejectedClip]:
        offset = self.offset
        # Only "\n" ends a line: captions may hold the other characters that Python treats as line ends.
        line = self._file.readline(LONGEST_TEXT + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.offset += len(line)
        if len(line) <= LONGEST_TEXT:
            return self.number, offset, line
        while not line.endswith(b"\n") and (line := self._file.readline(LONGEST_TEXT)):
            self.offset += len(line)
        detail = f"the line has more than {LONGEST_TEXT >> 20} MiB; expected one clip per line"
        return self.number, offset, RejectedClip("long_text", detail)


class _CsvLines(Iterator[str]):
    """Lines for the CSV reader; remembers the first unusable one, since an exception would end the reader."""

    def __init__(self, lines: _Lines):
        self._lines = lines
        self._problem: RejectedClip | None = None

    def __next__(self) -> str:
        _, _, line = next(self._lines)
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


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise CollectionError(f"{path} cannot be read ({error.strerror}); correct its permissions") from error


def _refuse_other_files(path: Path, file: BinaryIO) -> None:
    start = file.read(_POINTER_BYTES)
    if is_pointer(start):
        raise CollectionError(f"{path} {describe_pointer(start)}")
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise CollectionError(f"{path} is UTF-16 text; save it as UTF-8")
