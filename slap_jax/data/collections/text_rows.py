"""Rows of JSON lines and CSV files, one at a time; a row with a fault does not keep the others from being read."""

import codecs
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slap_jax.data.collections.entry_fields import (
    LONGEST_TEXT,
    CollectionError,
    RejectedClip,
    decode_text,
    parse_object,
)

JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")

# (number of the first line, what the row holds or why it cannot be read)
Row = tuple[int, dict[str, Any] | RejectedClip]


def read_rows(path: Path) -> Iterator[Row]:
    """Reads a `.jsonl`, `.ndjson` or `.csv` file; of the last, all values are texts.

    Empty lines are passed over.

    Raises:
        CollectionError: neither of them, unreadable, UTF-16, or a CSV without a usable header.
    """
    return _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)


def csv_header(path: Path) -> list[str]:
    """Returns the names of the columns of a CSV file.

    Raises:
        CollectionError: there is no usable header.
    """
    reader = csv.reader(_Texts(path), strict=True)
    try:
        columns = [column.strip() for column in next(reader, [])]
    except csv.Error as error:
        raise CollectionError(
            f"{path} starts with no CSV header ({error}); save it as comma-separated UTF-8"
        ) from error
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
    texts = _Texts(path)
    # Without `strict`, a quote that is never closed takes all lines up to the next quote into one field.
    reader = csv.reader(texts, strict=True)
    next(reader)
    while True:
        first = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines = f"line {first}" if reader.line_num == first else f"lines {first} to {reader.line_num}"
            yield first, RejectedClip("bad_csv", f"{lines}: {error}; write each quote inside a quoted text twice")
            continue
        problem = texts.take_problem()
        if problem is not None:
            yield first, problem
        elif len(values) > len(columns):
            yield (
                first,
                RejectedClip(
                    "bad_csv",
                    f"{len(values)} values for {len(columns)} columns; put texts that hold a comma between quotes",
                ),
            )
        elif any(value.strip() for value in values):
            yield first, dict(zip(columns, values, strict=False))


class _Texts(Iterator[str]):
    """Lines for the CSV reader, which remembers the first that cannot be used instead of stopping there."""

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
        """Returns what was found since the last call."""
        problem, self._problem = self._problem, None
        return problem


def _lines(path: Path) -> Iterator[tuple[int, bytes | RejectedClip]]:
    """Reads numbered lines with their ends, never more of one than `LONGEST_TEXT`."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise CollectionError(f"{path} cannot be read ({error.strerror}); correct its permissions") from error
    with file:
        number = 0
        # Only "\n" ends a line: captions may hold the other characters that Python takes for line ends.
        while line := file.readline(LONGEST_TEXT + 1):
            number += 1
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise CollectionError(f"{path} is UTF-16 text; save it as UTF-8")
            if len(line) <= LONGEST_TEXT:
                yield number, line
                continue
            while not line.endswith(b"\n") and (line := file.readline(LONGEST_TEXT)):
                pass
            yield (
                number,
                RejectedClip("long_text", f"the line has more than {LONGEST_TEXT >> 20} MiB; expected one clip a line"),
            )
