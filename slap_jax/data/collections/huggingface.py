"""Data sets as Hugging Face `datasets` stores them: folders of Parquet files, and what `save_to_disk` writes."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from slap_jax.data.collections.column_names import caption_texts, label_texts
from slap_jax.data.collections.entries import AudioLocation, Entry, Rejection, TableCell
from slap_jax.data.collections.entry_fields import (
    CollectionError,
    RejectedClip,
    audio_file,
    make_entry,
    some_clips,
    split_name,
    split_of_shard,
    text_field,
)
from slap_jax.data.collections.folder_walk import walk_files
from slap_jax.data.collections.table_columns import ColumnChoice, TableColumns, find_columns
from slap_jax.data.collections.table_files import TABLE_SUFFIXES, TableError, open_table, struct_field

if TYPE_CHECKING:
    import pyarrow as pa

# What `save_to_disk` writes beside the tables of several splits, and of one.
SPLITS_FILE = "dataset_dict.json"
STATE_FILE = "state.json"


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
            source: a table, or a folder that holds tables at any depth.
            audio_root: what the paths of tables without audio bytes are relative to; the folder by default.
            name: of the collection; the folder's by default.
            split: of all clips; by default told by the names of files and folders.
            audio_column: column of the audio; by default told by its type.
            caption_columns: columns of the captions, best first; by default told by their names.
            label_columns: columns of the labels; by default those of classes, and others told by their names.
            id_column: column of ids, unique in the whole collection; by default ids are file and row.

        Raises:
            CollectionError: there is no such file or folder.
        """
        self._source = Path(source)
        if not self._source.exists():
            raise CollectionError(f"{source} is missing; expected a folder with .parquet or .arrow files")
        self.root = self._source if self._source.is_dir() else self._source.parent
        self.name = name or self.root.resolve().name
        self._audio_root = Path(audio_root or self.root)
        self._split = split
        self._choice = ColumnChoice(audio_column, caption_columns, label_columns, id_column)

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the rows table by table; a table that is damaged is one rejection after its good rows.

        Raises:
            CollectionError: there are no rows, or columns that do not tell what they hold.
        """
        return some_clips(self._entries(), self._source)

    def _entries(self) -> Iterator[Entry | Rejection]:
        for table in self._tables():
            if isinstance(table, Rejection):
                yield table
                continue
            relative, split = table
            try:
                yield from self._rows(relative, self._split or split)
            except TableError as error:
                yield Rejection(str(relative), "", "bad_table", f"{error}; copy it again")

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
            for found in walk_files(self.root):
                if isinstance(found, Rejection):
                    yield found
                elif found.suffix.lower() in TABLE_SUFFIXES:
                    yield found, split_of_shard(found)

    def _saved_tables(self, folder: PurePosixPath, split: str) -> Iterator[tuple[PurePosixPath, str]]:
        """Lists what `save_to_disk` wrote for one split; other .arrow files beside them are caches."""
        file = self.root / folder / STATE_FILE
        state = _read_json(file, "_data_files")
        if state.get("_indices_data_files"):
            raise CollectionError(f"{file} selects rows of its tables; call flatten_indices() before save_to_disk()")
        split = split or split_name(state.get("_split") or split_of_shard(PurePosixPath(self.root.name, "x")))
        for table in state["_data_files"]:
            yield folder / table["filename"], split

    def _rows(self, relative: PurePosixPath, split: str) -> Iterator[Entry | Rejection]:
        table = open_table(self.root / relative)
        columns = find_columns(table.schema, self._choice, relative)
        row = 0
        for batch, has_audio in table.batches(columns.needed(), columns.audio):
            cells = {name: _cells(batch, name) for name in columns.needed()}
            for index, present in enumerate(has_audio):
                fields = {name: values[index] for name, values in cells.items()}
                audio = TableCell(self.root / relative, columns.audio, row) if present else None
                yield self._entry(fields, audio, columns, relative, row, split)
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
            return make_entry(_entry_fields(row, columns), audio, id=id, split=split, source=self.name, where=where)
        except RejectedClip as rejected:
            return rejected.at(where, id)

    def _audio_file(self, fields: Mapping[str, Any], columns: TableColumns, relative: PurePosixPath) -> AudioLocation:
        stated = text_field(fields, columns.path)
        if not stated:
            raise RejectedClip("missing_audio", f"the row has neither audio bytes nor a path in {columns.path!r}")
        # Of `audiofolder` tables, paths are relative to the table.
        above = relative.parent if columns.path == "file_name" else PurePosixPath()
        return audio_file(self._audio_root, str(above / stated))


def _cells(batch: "pa.RecordBatch", name: str) -> list[Any]:
    """Returns the values of a column, or of a field "a.b" of it; instead of text that is not UTF-8, a rejection."""
    if name in batch.schema.names:
        column = batch.column(name)
    else:
        above, _, field = name.rpartition(".")
        column = struct_field(batch.column(above), field)
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


def _entry_fields(fields: Mapping[str, Any], columns: TableColumns) -> dict[str, Any]:
    """Brings a row to the keys of manifests."""
    found = {name: fields[name] for name in columns.plain}
    if columns.captions:
        found["captions"] = caption_texts(columns.captions, fields)
    found["labels"] = [
        label for name, classes in columns.labels.items() for label in label_texts(name, fields[name], classes)
    ]
    return found


def _read_json(path: Path, key: str) -> dict[str, Any]:
    """Reads an object that has a key at least."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CollectionError(f"{path} cannot be read ({error}); save the data set again") from error
    if not isinstance(found, dict) or not isinstance(found.get(key), list):
        raise CollectionError(f"{path} has no list {key!r}, as save_to_disk() writes it; save the data set again")
    return found
