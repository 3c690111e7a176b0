"""Parquet files and Arrow streams with encoded audio in a column: their texts in batches, their audio by row.

Reading the encoded audio that an entry names: a file, a member of a tar, a cell of a table.
"""

import bisect
import functools
import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from slap_jax.data.audio import AudioError
from slap_jax.data.collections.entries import ArchiveMember, AudioFile, AudioLocation, TableCell
from slap_jax.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


TABLE_SUFFIXES = (".parquet", ".arrow")
_ROWS_PER_BATCH = 1_000

# Where a table does not say which rows have audio, the audio itself is looked at.
_ROWS_PER_AUDIO_BATCH = 16

# Several threads read neighbouring rows, some of one row group and some of the next.
_GROUPS_IN_MEMORY = 2


class TableError(UserError, ValueError):
    """A table that is damaged or broken off."""


class TableFile(Protocol):
    """A table of rows in groups.

    Attributes:
        schema: names and types of the columns, and what the writer said about them.
    """

    schema: "pa.Schema"

    def batches(self, columns: Sequence[str], audio: str) -> Iterator[tuple["pa.RecordBatch", list[bool]]]:
        """Reads the rows in order, without the audio.

        Args:
            columns: the columns to read at least; "a.b" is the field b of a.
            audio: the column whose bytes are left out, as far as the file allows it; "" where there is none.

        Yields:
            Some rows, and for each of them whether it has audio bytes.

        Raises:
            TableError: the rest is damaged or broken off.
        """
        ...

    def group_rows(self) -> Sequence[int]:
        """Returns the number of rows of each group."""
        ...

    def audio_of_group(self, group: int, column: str) -> "pa.Array | pa.ChunkedArray":
        """Returns the audio bytes of the rows of a group.

        Raises:
            TableError: they are damaged.
        """
        ...


def open_table(path: Path) -> TableFile:
    """Opens a `.parquet` file or, else, an Arrow stream; reads no rows.

    Raises:
        TableError: it is neither, or broken off.
    """
    import pyarrow as pa

    try:
        return _ParquetTable(path) if path.suffix.lower() == ".parquet" else _ArrowTable(path)
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path} is no {path.suffix} table, or broken off ({error})") from error


def audio_bytes(path: Path, column: str, row: int) -> bytes | None:
    """Reads one cell; the row groups read last are kept in memory, so neighbouring rows cost little.

    Args:
        path: of the table.
        column: of bytes, or of a struct with the field `bytes`.
        row: counted from 0 through the whole file.

    Returns:
        None where the cell is empty.

    Raises:
        TableError: the table is damaged, or has no such row or column.
    """
    version = path.stat().st_mtime_ns
    with _reading:
        ends = _group_ends(path, version)
        group = bisect.bisect_right(ends, row)
        if row < 0 or group == len(ends):
            raise TableError(f"{path} has no row {row}: it has {ends[-1] if ends else 0}")
        cells = _group(path, version, group, column)
    return cells[row - (ends[group - 1] if group else 0)].as_py()


# One thread reads a group, the others wait for it instead of reading it too.
_reading = threading.Lock()


@functools.lru_cache(maxsize=_GROUPS_IN_MEMORY)
def _table(path: Path, version: int) -> TableFile:
    return open_table(path)


@functools.lru_cache(maxsize=64)
def _group_ends(path: Path, version: int) -> list[int]:
    return list(itertools.accumulate(_table(path, version).group_rows()))


@functools.lru_cache(maxsize=_GROUPS_IN_MEMORY)
def _group(path: Path, version: int, group: int, column: str) -> "pa.Array | pa.ChunkedArray":
    return _table(path, version).audio_of_group(group, column)


class _ParquetTable:
    def __init__(self, path: Path):
        import pyarrow.parquet

        self._path = path
        self._file = pyarrow.parquet.ParquetFile(path)
        self.schema = self._file.schema_arrow

    def batches(self, columns: Sequence[str], audio: str) -> Iterator[tuple["pa.RecordBatch", list[bool]]]:
        import pyarrow as pa

        leaf = _audio_leaf(self.schema, audio)
        try:
            for group, rows in enumerate(self.group_rows()):
                missing = self._missing(group, leaf) if audio else rows
                unknown = missing is None or 0 < missing < rows
                for batch in self._file.iter_batches(
                    batch_size=_ROWS_PER_AUDIO_BATCH if unknown else _ROWS_PER_BATCH,
                    row_groups=[group],
                    columns=[*columns, leaf] if unknown else list(columns),
                ):
                    yield batch, _present(batch, audio) if unknown else [missing == 0] * batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"{self._path} is damaged ({error})") from error

    def group_rows(self) -> Sequence[int]:
        metadata = self._file.metadata
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]

    def audio_of_group(self, group: int, column: str) -> "pa.Array | pa.ChunkedArray":
        import pyarrow as pa

        try:
            table = self._file.read_row_group(group, columns=[_audio_leaf(self.schema, column)])
            return _audio_cells(table.column(column))
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"{self._path} is damaged in row group {group} ({error})") from error

    def _missing(self, group: int, leaf: str) -> int | None:
        """Returns the number of rows without audio, as far as the file's footer tells it."""
        metadata = self._file.metadata.row_group(group)
        for index in range(metadata.num_columns):
            column = metadata.column(index)
            if column.path_in_schema == leaf:
                statistics = column.statistics
                return statistics.null_count if statistics is not None and statistics.has_null_count else None
        return None


class _ArrowTable:
    """A stream in a file that is mapped into memory, so that only what is used is read."""

    def __init__(self, path: Path):
        import pyarrow as pa

        self._path = path
        self.schema = pa.ipc.open_stream(pa.memory_map(str(path))).schema

    def batches(self, columns: Sequence[str], audio: str) -> Iterator[tuple["pa.RecordBatch", list[bool]]]:
        import pyarrow as pa

        try:
            for batch in pa.ipc.open_stream(pa.memory_map(str(self._path))):
                for start in range(0, batch.num_rows, _ROWS_PER_BATCH):
                    rows = batch.slice(start, _ROWS_PER_BATCH)
                    yield rows, _present(rows, audio)
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"{self._path} is broken off ({error})") from error

    @functools.cached_property
    def _batches(self) -> list["pa.RecordBatch"]:
        import pyarrow as pa

        found = []
        try:
            for batch in pa.ipc.open_stream(pa.memory_map(str(self._path))):
                found.append(batch)
        except (pa.ArrowException, OSError):
            pass  # the listing has said that the file is broken off; the batches before are good
        return found

    def group_rows(self) -> Sequence[int]:
        return [batch.num_rows for batch in self._batches]

    def audio_of_group(self, group: int, column: str) -> "pa.Array | pa.ChunkedArray":
        return _audio_cells(self._batches[group].column(column))


def struct_field(column: "pa.Array | pa.ChunkedArray", name: str) -> "pa.Array | pa.ChunkedArray":
    """Returns a field of a column of structs; it is missing where the whole struct is."""
    return column.flatten()[column.type.get_field_index(name)]


def _audio_leaf(schema: "pa.Schema", column: str) -> str:
    """Returns the name under which Parquet stores the bytes."""
    import pyarrow as pa

    return f"{column}.bytes" if column and pa.types.is_struct(schema.field(column).type) else column


def _audio_cells(column: "pa.Array | pa.ChunkedArray") -> "pa.Array | pa.ChunkedArray":
    import pyarrow as pa

    return struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _present(batch: "pa.RecordBatch", audio: str) -> list[bool]:
    return _audio_cells(batch.column(audio)).is_valid().to_pylist() if audio else [False] * batch.num_rows


def read_audio(location: AudioLocation) -> Path | bytes:
    """Returns what `decode_audio` takes: the path of a file, the encoded bytes of anything else.

    Raises:
        AudioError: missing, not readable, or shorter than the collection said.
    """
    try:
        if isinstance(location, ArchiveMember):
            return _member(location)
        if isinstance(location, TableCell):
            return _cell(location)
        with location.path.open("rb"):  # libsndfile would not say why it cannot
            return location.path
    except FileNotFoundError as error:
        raise AudioError(f"{location} is missing; correct the path", "missing_file") from error
    except OSError as error:
        raise AudioError(
            f"{location} cannot be read ({error.strerror or error}); correct its permissions, or copy it again",
            "unreadable_file",
        ) from error


def file_of(location: AudioLocation) -> Path:
    """Returns the file that holds the audio."""
    if isinstance(location, AudioFile):
        return location.path
    return location.archive if isinstance(location, ArchiveMember) else location.table


def _member(location: ArchiveMember) -> bytes:
    with location.archive.open("rb") as file:
        file.seek(location.offset)
        data = file.read(location.length)
    if len(data) < location.length:
        raise AudioError(
            f"{location} is broken off: {len(data)} of {location.length} bytes are there; copy the archive again",
            "truncated_audio",
        )
    return data


def _cell(location: TableCell) -> bytes:
    try:
        data = audio_bytes(location.table, location.column, location.row)
    except TableError as error:
        raise AudioError(f"{location} cannot be read: {error}; copy the table again", "unreadable_file") from error
    if not data:
        raise AudioError(f"{location} holds no audio in column {location.column!r}; leave it out", "empty_audio")
    return data
