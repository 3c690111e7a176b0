"""Gathers the rows of one clip: AudioCaps, MACS and most spreadsheets have a row for each caption.

Rows belong to one clip if they name the same file and, in a manifest, state the same `id` and `source`, or none. Their
captions, labels and regions are joined in the order of the rows, without repetitions. Rows that contradict each other
are one rejection.

Rows of a clip need not be adjacent, and there may be more rows than fit into memory. A first pass stores 8 bytes per
row. If rows repeat, a second pass stores where these are in the file, and they are read together at the first of them.
"""

import array
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from slap_jax.data.collections.fields import (
    RejectedClip,
    parse_captions,
    parse_labels,
    parse_regions,
    shorten,
)
from slap_jax.data.collections.rows import Row, RowFile
from slap_jax.data.index import hash_bytes

# More rows of one clip are a mistake, such as a column of folders instead of files.
MOST_ROWS = 1_000

_JOINED = ("caption", "captions", "labels", "regions")
_SINGLE = ("split", "caption_source", "licence", "license", "duration_s", "group")
# A part of a file: rows that state different parts are different clips, which only their author can cut.
_PART = re.compile(
    r"(start|end|stop|begin|onset|offset)(_?(s|secs?|seconds?|ms|times?|frames?|samples?))?", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class ClipRow:
    """The rows of one clip, made one.

    Attributes:
        number: line of the first row; of a faulty row if there is one.
        fields: the values of the clip, with joined captions, labels and regions; as in the file if there is a problem.
        problem: why the clip cannot be used, or None.
    """

    number: int
    fields: Mapping[str, Any]
    problem: RejectedClip | None = None


def gather_rows(
    file: RowFile, identity: Sequence[str], convert: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> Iterator[ClipRow]:
    """Reads a file in the order of the first rows of its clips.

    Args:
        file: file with a row per clip or per caption.
        identity: keys that identify a clip, that of the path of its audio first.
        convert: converts the values of a row to the fields of a manifest; may raise `RejectedClip`.

    Raises:
        CollectionError: the file cannot be read.
    """
    repeated = _repeated_keys(file, identity)
    if not len(repeated):
        for row in file.rows():
            yield _one(row, convert)
        return
    groups = _Groups(file, identity, repeated)
    for row in file.rows():
        places = groups.places(_key(row.fields, identity))
        if not places:
            yield _one(row, convert)
        elif places[0][0] == row.number:
            yield _join(file, places, convert)


class _Groups:
    """Where the rows of the clips with several rows are in a file."""

    def __init__(self, file: RowFile, identity: Sequence[str], repeated: UInt64[np.ndarray, " k"]):
        self._keys = repeated
        keys, numbers, offsets = (array.array("Q") for _ in range(3))
        for row in file.rows():
            key = _key(row.fields, identity)
            if key and _position(repeated, key) is not None:
                keys.append(key)
                numbers.append(row.number)
                offsets.append(row.offset)
        order = np.argsort(np.frombuffer(keys, np.uint64), kind="stable")
        self._numbers: Int64[np.ndarray, " n"] = np.frombuffer(numbers, np.uint64)[order].astype(np.int64)
        self._offsets: Int64[np.ndarray, " n"] = np.frombuffer(offsets, np.uint64)[order].astype(np.int64)
        ordered = np.frombuffer(keys, np.uint64)[order]
        self._starts = np.append(np.searchsorted(ordered, repeated), len(ordered))

    def places(self, key: int) -> list[tuple[int, int]]:
        """Returns (number, offset) of the rows of a clip in order; none if it has one row."""
        position = _position(self._keys, key) if key else None
        if position is None:
            return []
        rows = slice(self._starts[position], self._starts[position + 1])
        return list(zip(self._numbers[rows].tolist(), self._offsets[rows].tolist(), strict=True))


def _repeated_keys(file: RowFile, identity: Sequence[str]) -> UInt64[np.ndarray, " k"]:
    """Returns the sorted keys that several rows have."""
    keys = array.array("Q", (_key(row.fields, identity) for row in file.rows()))
    ordered = np.sort(np.frombuffer(keys, np.uint64))
    ordered = ordered[ordered > 0]
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _key(fields: Mapping[str, Any], identity: Sequence[str]) -> int:
    """Returns a hash of what identifies the clip of a row; 0 if the row names none."""
    path, *others = (fields.get(key) for key in identity)
    if not isinstance(path, str) or not path.strip():
        return 0
    stated = [os.path.normpath(path.strip()), *("" if value is None else str(value).strip() for value in others)]
    return hash_bytes("\0".join(stated).encode("utf-8", "surrogatepass")) or 1


def _position(keys: UInt64[np.ndarray, " k"], key: int) -> int | None:
    position = int(np.searchsorted(keys, np.uint64(key)))
    return position if position < len(keys) and int(keys[position]) == key else None


def _one(row: Row, convert: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> ClipRow:
    if row.problem is not None:
        return ClipRow(row.number, row.fields, row.problem)
    try:
        return ClipRow(row.number, convert(row.fields))
    except RejectedClip as rejected:
        return ClipRow(row.number, row.fields, rejected)


def _join(
    file: RowFile,
    places: Sequence[tuple[int, int]],
    convert: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> ClipRow:
    first = places[0][0]
    joined = JoinedRows(len(places), "line")
    for row in file.rows_at(places[:MOST_ROWS]):
        gathered = _one(row, convert)
        if gathered.problem is not None:
            return gathered
        try:
            joined.add(row.number, {**row.fields, **gathered.fields}, gathered.fields)
        except RejectedClip as rejected:
            number = first if rejected.reason == "contradicting_rows" else row.number
            return ClipRow(number, row.fields, rejected)
    return ClipRow(first, joined.fields)


class JoinedRows:
    """The fields of rows of one clip.

    Attributes:
        fields: fields of a manifest.
    """

    def __init__(self, count: int, unit: str):
        """Starts with no row.

        Args:
            count: number of rows of the clip.
            unit: what messages call the number of a row.
        """
        self.fields: dict[str, Any] = {}
        self._count, self._unit = count, unit
        self._stated: dict[str, tuple[int, Any]] = {}  # key -> row and value that no other row may contradict

    def add(self, number: int, stated: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        """Adds a row.

        Args:
            number: number of the row, for messages.
            stated: all values of the row.
            fields: its fields of a manifest.

        Raises:
            RejectedClip: it contradicts an earlier row, has a fault, or there are too many rows.
        """
        if self._count > MOST_ROWS:
            detail = (
                f"{self._count:,} rows name this clip; expected at most {MOST_ROWS:,}, one for each of its captions"
            )
            raise RejectedClip("contradicting_rows", detail)
        for key, value in stated.items():
            if value in (None, "") or not (key in _SINGLE or _PART.fullmatch(key)):
                continue
            line, earlier = self._stated.setdefault(key, (number, value))
            if value != earlier:
                raise RejectedClip(
                    "contradicting_rows",
                    f"{self._count} rows name this clip, but {key} is {shorten(earlier)} in {self._unit} {line} and "
                    f"{shorten(value)} in {self._unit} {number}; make them agree, or give each clip its own id",
                )
        for key, value in fields.items():
            if key not in _JOINED and value not in (None, ""):
                self.fields.setdefault(key, value)
        lists = {
            "captions": parse_captions(fields),
            "labels": parse_labels(fields.get("labels")),
            "regions": parse_regions(fields.get("regions")),
        }
        for key, values in lists.items():
            if values is not None:
                self.fields[key] = list(dict.fromkeys([*self.fields.get(key, ()), *values]))
