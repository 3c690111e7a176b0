"""The rows of one Parquet or Arrow file, read with `pyarrow` in batches that fit into memory."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slap_jax.data.collections.columns import TableColumns
from slap_jax.data.collections.fields import RejectedClip

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

_ROWS_PER_BATCH = 1_000
# A Parquet file that does not state which rows have audio is read with its audio.
_ROWS_PER_AUDIO_BATCH = 16


@dataclasses.dataclass(frozen=True)
class UnreadRows:
    """Rows of a damaged part of a table, and why they cannot be read."""

    rows: int
    reason: str


def read_schema(path: Path) -> "pa.Schema":
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() == ".parquet":
        return pq.read_schema(path)
    return pa.ipc.open_stream(pa.memory_map(str(path))).schema


def features(schema: "pa.Schema") -> "datasets.Features":
    """Interprets a schema; leaves out columns of types that `datasets` does not know, such as maps."""
    import datasets
    import pyarrow as pa

    try:
        return datasets.Features.from_arrow_schema(schema)
    except ValueError:
        known = datasets.Features()
        for field in schema.remove_metadata():
            with contextlib.suppress(ValueError):
                known.update(datasets.Features.from_arrow_schema(pa.schema([field])))
        return known


def read_batches(path: Path, columns: TableColumns) -> Iterator[tuple["pa.RecordBatch", list[bool]] | UnreadRows]:
    """Yields the rows of a table in order, and whether each has audio bytes; reads the bytes only if it must.

    In place of the rest of a damaged row group, the number of its rows comes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() != ".parquet":
        try:
            for batch in pa.ipc.open_stream(pa.memory_map(str(path))):  # reads only the pages that are used
                for start in range(0, batch.num_rows, _ROWS_PER_BATCH):
                    rows = batch.slice(start, _ROWS_PER_BATCH)
                    yield rows, _has_audio(rows, columns.audio)
        except (pa.ArrowException, OSError) as error:
            yield UnreadRows(0, str(error))  # a stream does not state its length
        return
    with pq.ParquetFile(path) as file:
        leaf = columns.audio
        if leaf and pa.types.is_struct(file.schema_arrow.field(leaf).type):
            leaf = f"{leaf}.bytes"
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            missing = _null_count(file.metadata.row_group(group), leaf) if leaf else rows
            is_mixed = missing is None or 0 < missing < rows
            names = [*columns.without_audio(), leaf] if is_mixed else columns.without_audio()
            size = _ROWS_PER_AUDIO_BATCH if is_mixed else _ROWS_PER_BATCH
            read = 0
            try:
                for batch in file.iter_batches(size, row_groups=[group], columns=names):
                    has_audio = _has_audio(batch, columns.audio) if is_mixed else [missing == 0] * batch.num_rows
                    yield batch, has_audio
                    read += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                yield UnreadRows(rows - read, str(error))


def _null_count(group: Any, leaf: str) -> int | None:
    """Returns the number of rows of a Parquet row group without a value, None if its footer does not state it."""
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema == leaf:
            statistics = column.statistics
            return statistics.null_count if statistics is not None and statistics.has_null_count else None
    return None


def _has_audio(batch: "pa.RecordBatch", audio: str) -> list[bool]:
    import pyarrow as pa

    if not audio:
        return [False] * batch.num_rows
    column = batch.column(audio)
    return (_field(column, "bytes") if pa.types.is_struct(column.type) else column).is_valid().to_pylist()


def cells(batch: "pa.RecordBatch", name: str) -> list[Any]:
    """Returns the values of a column, or of its field "column.field"; a rejection instead of text that is not UTF-8."""
    if name in batch.schema.names:
        column = batch.column(name)
    else:
        parent, _, field = name.rpartition(".")
        column = _field(batch.column(parent), field)
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_cell(scalar, name) for scalar in column]


def _cell(scalar: "pa.Scalar", name: str) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        return RejectedClip("bad_text", f"{name} is not UTF-8: byte 0x{byte:02x} at {error.start}")


def _field(column: "pa.Array", name: str) -> "pa.Array":
    """Returns a field of a column of structs; it is null where the whole struct is."""
    return column.flatten()[column.type.get_field_index(name)]


def stated_rows(path: Path) -> int | None:
    """Returns the number of rows that the footer of a Parquet file states; None if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            return pq.read_metadata(file).num_rows if path.suffix.lower() == ".parquet" else None
    except (pa.ArrowException, OSError):
        return None
