"""Reads the encoded audio that an entry names: a file, a member of a tar, or a cell of a table.

Cells are read with `pyarrow` rather than `datasets`, which has random access to Parquet only after copying the whole
file into a cache. A cell costs one row group, which the next rows share; an Arrow file is mapped into memory.
"""

import bisect
import functools
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from slap_jax.data.audio import AudioError
from slap_jax.data.collections.entries import ArchiveMember, AudioLocation, TableCell
from slap_jax.data.collections.git_lfs import describe_pointer, is_pointer

if TYPE_CHECKING:
    import pyarrow as pa

# Row groups and tables that stay open: threads that read neighbouring rows may be in two at once.
_CACHED = 2

_POINTER_BYTES = 512

# One thread reads a row group while the others wait for it, instead of reading it too.
_table_lock = threading.Lock()

# (last row + 1 of each group, group -> values of its column)
_Table = tuple[list[int], Callable[[int, str], "pa.ChunkedArray"]]


def read_audio(location: AudioLocation) -> Path | bytes:
    """Reads the audio of an entry, in any order and from any thread or process.

    Returns:
        An argument for `decode_audio`: the path of a file, the bytes of anything else.

    Raises:
        AudioError: it is missing, unreadable, shorter than the collection stated, or a Git LFS pointer.
    """
    try:
        match location:
            case ArchiveMember():
                audio = start = _read_member(location)
            case TableCell():
                audio = start = _read_cell(location)
            case _:
                audio = location.path
                with audio.open("rb") as file:  # libsndfile would not say why it cannot open a file
                    start = file.read(_POINTER_BYTES)
    except FileNotFoundError as error:
        raise AudioError(f"{location} is missing; correct the path", "missing_file") from error
    except OSError as error:
        raise AudioError(
            f"{location} cannot be read ({error.strerror or error}); correct its permissions, or copy it again",
            "unreadable_file",
        ) from error
    if is_pointer(start):
        raise AudioError(f"{location} {describe_pointer(start)}", "lfs_pointer")
    return audio


def _read_member(location: ArchiveMember) -> bytes:
    with location.archive.open("rb") as file:
        file.seek(location.offset)
        data = file.read(location.length)
    if len(data) < location.length:
        raise AudioError(
            f"{location} is truncated: {len(data)} of {location.length} bytes are left; copy the archive again",
            "truncated_audio",
        )
    return data


def _read_cell(location: TableCell) -> bytes:
    import pyarrow as pa

    path, row = location.table, location.row
    version = path.stat().st_mtime_ns
    try:
        with _table_lock:
            ends, _ = _open_table(path, version)
            group = bisect.bisect_right(ends, row)
            if row < 0 or group == len(ends):
                raise AudioError(
                    f"{location} does not exist: the table has {ends[-1] if ends else 0} rows; copy the table again",
                    "unreadable_file",
                )
            cells = _read_group(path, version, group, location.column)
        cell = cells[row - (ends[group - 1] if group else 0)]
        data = (cell["bytes"] if isinstance(cell, pa.StructScalar) and cell.is_valid else cell).as_py()
    except (pa.ArrowException, KeyError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file cannot be opened; damaged contents have no error number
        reason = " ".join(str(error).split())
        raise AudioError(
            f"{location} cannot be read, the table is damaged ({reason}); copy it again", "unreadable_file"
        ) from error
    if not data:
        raise AudioError(f"{location} holds no audio in column {location.column!r}; leave it out", "empty_audio")
    return data


@functools.lru_cache(maxsize=_CACHED)
def _read_group(path: Path, version: int, group: int, column: str) -> "pa.ChunkedArray":
    return _open_table(path, version)[1](group, column)


@functools.lru_cache(maxsize=_CACHED)
def _open_table(path: Path, version: int) -> _Table:
    """Opens a table; `version` keeps a rewritten table from being mistaken for the old one."""
    return _open_parquet(path) if path.suffix.lower() == ".parquet" else _open_arrow(path)


def _open_parquet(path: Path) -> _Table:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    return list(itertools.accumulate(sizes)), lambda group, column: file.read_row_group(group, [column]).column(column)


def _open_arrow(path: Path) -> _Table:
    import pyarrow as pa

    batches: list[pa.RecordBatch] = []
    try:
        for batch in pa.ipc.open_stream(pa.memory_map(str(path))):
            batches.append(batch)
    except (pa.ArrowException, OSError):
        if not batches:
            raise
        # The listing has reported that the file is truncated; the batches before are intact.
    sizes = [batch.num_rows for batch in batches]
    return list(itertools.accumulate(sizes)), lambda group, column: pa.chunked_array([batches[group].column(column)])
