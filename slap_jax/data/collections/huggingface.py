"""Parquet and Arrow files as Hugging Face `datasets` writes them: repositories of the hub, and `save_to_disk` folders.

`datasets` interprets the schema of a table: which column is `Audio`, the names of a `ClassLabel`, lists of these. The
rows are read with `pyarrow`, which `datasets` builds on, because the readers of `datasets`

- select whole columns only, so that listing would read all audio;
- raise for the whole file at the first class number or text that does not fit; here only that row is rejected, and
  the intact rows of a damaged file are kept;
- have no random access to Parquet without a copy of it in a cache, and treat "[1]" in a file name as a wildcard.

Nothing here accesses the network.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from slap_jax.data.collections.columns import TableColumns, find_columns, manifest_fields
from slap_jax.data.collections.entries import AudioLocation, Entry, Rejection, TableCell
from slap_jax.data.collections.fields import (
    CollectionError,
    RejectedClip,
    audio_file,
    collection_name,
    make_entry,
    require_clips,
    split_name,
    split_of_shard,
    text_field,
)
from slap_jax.data.collections.folders import walk_files

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

TABLE_SUFFIXES = (".parquet", ".arrow")

# The files that `save_to_disk` writes next to the tables of several splits, and of one.
SPLITS_FILE = "dataset_dict.json"
STATE_FILE = "state.json"

_ROWS_PER_BATCH = 1_000
# A Parquet file that does not state which rows have audio is read with its audio.
_ROWS_PER_AUDIO_BATCH = 16


class HuggingFaceTables:
    """The rows of Parquet files or Arrow streams.

    Attributes:
        name: `source` of the clips.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        audio_root: str | os.PathLike[str] | None = None,
        name: str = "",
        *,
        split: str = "",
        audio_column: str = "",
        caption_columns: Sequence[str] = (),
        label_columns: Sequence[str] = (),
        id_column: str = "",
    ):
        """Reads nothing.

        Args:
            source: a table, or a folder with tables at any depth.
            audio_root: folder that the paths of rows without audio bytes are relative to; by default that of `source`.
            name: name of the collection; by default that of the folder and the folder above.
            split: split of all clips; by default taken from the names of files and folders.
            audio_column: column of the audio; by default recognised by type.
            caption_columns: columns of the captions, best first; by default recognised by name.
            label_columns: columns of the labels; by default those of class numbers, and others recognised by name.
            id_column: column of ids, unique in the whole collection; by default an id is file and row.

        Raises:
            CollectionError: there is no such file or folder, or `datasets` is not installed.
        """
        try:
            import datasets as _  # noqa: F401  (only to see whether it is installed)
        except ImportError as error:
            raise CollectionError(
                f"{source} is read with Hugging Face datasets, which is missing: pip install 'slap-jax[huggingface]'"
            ) from error
        self._source = Path(source)
        if not self._source.exists():
            raise CollectionError(f"{source} is missing; expected a folder with .parquet or .arrow files")
        self.root = self._source if self._source.is_dir() else self._source.parent
        self.name = name or collection_name(self.root)
        self._audio_root = Path(audio_root or self.root)
        self._split = split
        self._chosen = {"audio": audio_column, "captions": caption_columns, "labels": label_columns, "id": id_column}

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the rows table by table. A damaged table yields one rejection after its intact rows.

        Raises:
            CollectionError: there are no rows, or the columns of a table cannot be recognised.
        """
        return require_clips(self._entries(), self._source)

    def _entries(self) -> Iterator[Entry | Rejection]:
        import pyarrow as pa

        for table in self._tables():
            if isinstance(table, Rejection):
                yield table
                continue
            relative, split = table
            try:
                yield from self._rows(relative, self._split or split)
            except UnicodeEncodeError:  # pyarrow opens no such path
                detail = f"{str(self.root / relative)!r} is not a valid UTF-8 path; rename the file or folder"
                yield Rejection(str(relative), "", "bad_name", detail)
            except (pa.ArrowException, OSError) as error:
                reason = " ".join(str(error).split())
                detail = f"{self.root / relative} is damaged or truncated ({reason}); copy it again"
                yield Rejection(str(relative), "", "bad_table", detail)

    def _tables(self) -> Iterator[tuple[PurePosixPath, str] | Rejection]:
        """Lists (path relative to the root, split)."""
        if self._source.is_file():
            relative = PurePosixPath(self._source.name)
            yield relative, split_of_shard(relative)
        elif (self.root / SPLITS_FILE).is_file():
            for split in _read_json(self.root / SPLITS_FILE, "splits")["splits"]:
                yield from self._saved_tables(PurePosixPath(split), split_name(split))
        elif (self.root / STATE_FILE).is_file():
            yield from self._saved_tables(PurePosixPath(), "")
        else:
            for file in walk_files(self.root):
                if isinstance(file, Rejection):
                    yield file
                elif file.suffix.lower() in TABLE_SUFFIXES:
                    yield file, split_of_shard(file)

    def _saved_tables(self, folder: PurePosixPath, split: str) -> Iterator[tuple[PurePosixPath, str]]:
        """Lists what `save_to_disk` wrote for one split; other .arrow files in the folder are caches."""
        file = self.root / folder / STATE_FILE
        state = _read_json(file, "_data_files")
        if state.get("_indices_data_files"):
            raise CollectionError(f"{file} selects rows of its tables; call flatten_indices() before save_to_disk()")
        split = split or split_name(state.get("_split") or split_of_shard(PurePosixPath(self.root.name, "x")))
        for table in state["_data_files"]:
            yield folder / table["filename"], split

    def _rows(self, relative: PurePosixPath, split: str) -> Iterator[Entry | Rejection]:
        path = self.root / relative
        columns = find_columns(_features(_read_schema(path)), relative, **self._chosen)
        row = 0
        for batch, has_audio in _read_batches(path, columns):
            cells = {name: _cells(batch, name) for name in columns.without_audio()}
            for index, present in enumerate(has_audio):
                values = {name: column[index] for name, column in cells.items()}
                audio = TableCell(path, columns.audio, row) if present else None
                yield self._entry(values, audio, columns, relative, row, split)
                row += 1

    def _entry(
        self,
        row: Mapping[str, Any],
        audio: AudioLocation | None,
        columns: TableColumns,
        table: PurePosixPath,
        number: int,
        split: str,
    ) -> Entry | Rejection:
        where, id = f"{table}, row {number}", f"{table.with_suffix('')}/{number}"
        try:
            for value in row.values():
                if isinstance(value, RejectedClip):
                    raise value
            if columns.id:
                id = text_field(row, columns.id) or id
            audio = audio or self._audio_file(row, columns, table)
            fields = manifest_fields(row, columns.captions, columns.labels)
            return make_entry(fields, audio, id=id, split=split, source=self.name, where=where)
        except RejectedClip as rejected:
            return rejected.at(where, id)

    def _audio_file(self, row: Mapping[str, Any], columns: TableColumns, table: PurePosixPath) -> AudioLocation:
        stated = text_field(row, columns.path)
        if not stated:
            raise RejectedClip("missing_audio", f"the row has neither audio bytes nor a path in {columns.path!r}")
        # The paths of a metadata.parquet of `audiofolder` are relative to the table.
        folder = table.parent if columns.path == "file_name" else PurePosixPath()
        return audio_file(self._audio_root, str(folder / stated))


def _read_schema(path: Path) -> "pa.Schema":
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() == ".parquet":
        return pq.read_schema(path)
    return pa.ipc.open_stream(pa.memory_map(str(path))).schema


def _features(schema: "pa.Schema") -> "datasets.Features":
    """Interprets a schema; leaves out columns of types that `datasets` does not know, such as maps."""
    import datasets
    import pyarrow as pa

    try:
        return datasets.Features.from_arrow_schema(schema)
    except ValueError:
        features = datasets.Features()
        for field in schema.remove_metadata():
            with contextlib.suppress(ValueError):
                features.update(datasets.Features.from_arrow_schema(pa.schema([field])))
        return features


def _read_batches(path: Path, columns: TableColumns) -> Iterator[tuple["pa.RecordBatch", list[bool]]]:
    """Yields the rows of a table in order, and whether each has audio bytes; reads the bytes only if it must."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() != ".parquet":
        for batch in pa.ipc.open_stream(pa.memory_map(str(path))):  # reads only the pages that are used
            for start in range(0, batch.num_rows, _ROWS_PER_BATCH):
                rows = batch.slice(start, _ROWS_PER_BATCH)
                yield rows, _has_audio(rows, columns.audio)
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
            for batch in file.iter_batches(size, row_groups=[group], columns=names):
                yield batch, _has_audio(batch, columns.audio) if is_mixed else [missing == 0] * batch.num_rows


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


def _cells(batch: "pa.RecordBatch", name: str) -> list[Any]:
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


def _read_json(path: Path, key: str) -> dict[str, Any]:
    """Reads an object with at least a list under one key."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CollectionError(f"{path} cannot be read ({error}); save the dataset again") from error
    if not isinstance(values, dict) or not isinstance(values.get(key), list):
        raise CollectionError(f"{path} has no list {key!r}, as save_to_disk() writes it; save the dataset again")
    return values
