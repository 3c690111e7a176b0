"""Data sets as Hugging Face `datasets` stores them: folders of Parquet files, and what `save_to_disk` writes.

Which columns of a Parquet or Arrow table hold what, told by their types, their names, or the user.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from slap_jax.data.collections.entries import AudioLocation, Entry, Rejection, TableCell
from slap_jax.data.collections.fields import (
    PLAIN_FIELDS,
    CollectionError,
    RejectedClip,
    audio_file,
    caption_columns,
    caption_texts,
    label_columns,
    label_texts,
    make_entry,
    some_clips,
    split_name,
    split_of_shard,
    text_field,
)
from slap_jax.data.collections.folders import walk_files
from slap_jax.data.collections.table_files import TABLE_SUFFIXES, TableError, open_table, struct_field

if TYPE_CHECKING:
    import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow as pa


# What `save_to_disk` writes beside the tables of several splits, and of one.
SPLITS_FILE = "dataset_dict.json"
STATE_FILE = "state.json"


@dataclasses.dataclass(frozen=True)
class TableColumns:
    """The columns that a table's clips are made of.

    Attributes:
        audio: column with the encoded bytes, "" if there are only paths.
        path: column of paths, "" if there is none, "audio.path" for a field of `audio`.
        captions: columns of captions.
        labels: column of labels -> the names of its class numbers.
        id: column of identifiers, or "".
        plain: columns whose values are taken as they are.
    """

    audio: str
    path: str
    captions: tuple[str, ...]
    labels: Mapping[str, Sequence[str]]
    id: str
    plain: tuple[str, ...]

    def needed(self) -> list[str]:
        """Returns all but the audio's bytes, as Parquet names them."""
        names = (self.path, *self.captions, *self.labels, self.id, *self.plain)
        return [name for name in dict.fromkeys(names) if name]


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


_AUDIO_NAMES = ("audio", "flac", "wav", "mp3", "ogg", "opus", "m4a", "bytes")
_PATH_NAMES = ("file_name", "audio", "audio_path", "path", "file")


@dataclasses.dataclass(frozen=True)
class ColumnChoice:
    """What the user says about columns; empty where the readers are to find out.

    Attributes:
        audio: column of encoded audio, or of paths.
        captions: columns of captions, best first.
        labels: columns of labels.
        id: column of identifiers, unique in the whole collection.
    """

    audio: str = ""
    captions: Sequence[str] = ()
    labels: Sequence[str] = ()
    id: str = ""


def find_columns(schema: "pa.Schema", choice: ColumnChoice, table: object) -> TableColumns:
    """Finds the columns.

    Args:
        schema: of the table; where Hugging Face `datasets` wrote it, it says which columns are audio and classes.
        choice: of the user.
        table: what errors call it.

    Raises:
        CollectionError: no or several columns of audio, none of captions or labels, or one that the user names is
            missing.
    """
    features = _features(schema)
    chosen = [("audio_column", choice.audio), ("id_column", choice.id)]
    chosen += [("caption_columns", name) for name in choice.captions]
    chosen += [("label_columns", name) for name in choice.labels]
    for option, name in chosen:
        if name and name not in schema.names:
            raise CollectionError(f"{table} has no column {name!r}, which {option} names; {_listed(schema)}")
    audio, path = _audio_columns(schema, features, choice.audio, table)
    taken = (audio, path, choice.id)
    captions = choice.captions or caption_columns(name for name in schema.names if name not in taken)
    labels = choice.labels or [
        name
        for name in schema.names
        if name not in (*taken, *captions)
        and (_class_names(features, name) or (name in label_columns(schema.names) and _is_text(schema, name)))
    ]
    if not captions and not labels:
        raise CollectionError(
            f"{table} has no column that looks like captions or labels; {_listed(schema)}: "
            "name them with caption_columns or label_columns"
        )
    return TableColumns(
        audio=audio,
        path=path,
        captions=tuple(captions),
        labels={name: _class_names(features, name) for name in labels},
        id=choice.id,
        plain=tuple(name for name in PLAIN_FIELDS if name in schema.names and name not in (*taken, *captions, *labels)),
    )


def _audio_columns(schema: "pa.Schema", features: Mapping[str, Any], chosen: str, table: object) -> tuple[str, str]:
    """Returns the column of bytes and that of paths, either of which may be missing."""
    import pyarrow as pa

    def holds_bytes(name: str) -> bool:
        kind = schema.field(name).type
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    typed = [name for name, feature in features.items() if _type_of(feature) == "Audio" and name in schema.names]
    structs = [name for name in schema.names if pa.types.is_struct(schema.field(name).type) and holds_bytes(name)]
    named = [name for name in _AUDIO_NAMES if name in schema.names and holds_bytes(name)][:1]
    candidates = [chosen] if chosen else typed or structs or named
    if len(candidates) > 1:
        raise CollectionError(
            f"{table} has several columns of audio, {', '.join(candidates)}; name one with audio_column"
        )
    for name in candidates:
        kind = schema.field(name).type
        if holds_bytes(name):
            return name, f"{name}.path" if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 else ""
        if not _is_text(schema, name):
            raise CollectionError(
                f"{table} has samples, not encoded audio, in column {name!r} ({kind}); save it again with "
                f'cast_column("{name}", Audio())'
            )
        return "", name
    paths = [name for name in _PATH_NAMES if name in schema.names and _is_text(schema, name)]
    if paths:
        return "", paths[0]
    raise CollectionError(f"{table} has no column of audio; {_listed(schema)}: name it with audio_column")


def _features(schema: "pa.Schema") -> Mapping[str, Any]:
    """Returns what Hugging Face `datasets` says about the columns, nothing of tables that others wrote."""
    try:
        return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}


def _type_of(feature: Any) -> str:
    return feature.get("_type", "") if isinstance(feature, dict) else ""


def _class_names(features: Mapping[str, Any], name: str) -> Sequence[str]:
    """Returns the names of a column of class numbers, or of lists of these."""
    feature = features.get(name)
    if isinstance(feature, list):  # the way in which older versions write lists
        feature = feature[0] if feature else None
    elif isinstance(feature, dict) and _type_of(feature) in ("Sequence", "List", "LargeList"):
        feature = feature.get("feature")
    return feature.get("names", ()) if isinstance(feature, dict) and _type_of(feature) == "ClassLabel" else ()


def _is_text(schema: "pa.Schema", name: str) -> bool:
    import pyarrow as pa

    kind = schema.field(name).type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)


def _listed(schema: "pa.Schema") -> str:
    return "its columns are " + ", ".join(f"{field.name} ({field.type})" for field in schema)
