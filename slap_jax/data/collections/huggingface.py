"""Parquet and Arrow files as Hugging Face `datasets` writes them: repositories of the hub, and `save_to_disk` folders.

`datasets` interprets the schema of a table: which column is `Audio`, the names of a `ClassLabel`, lists of these. The
rows are read with `pyarrow`, which `datasets` builds on, because the readers of `datasets`

- select whole columns only, so that listing would read all audio;
- raise for the whole file at the first class number or text that does not fit; here only that row is rejected, and
  the intact rows of a damaged file are kept;
- have no random access to Parquet without a copy of it in a cache, and treat "[1]" in a file name as a wildcard.

Nothing here accesses the network.
"""

import dataclasses
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

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
from slap_jax.data.collections.folders import clip_files
from slap_jax.data.collections.gather import MOST_ROWS, JoinedRows
from slap_jax.data.collections.git_lfs import describe_pointer, is_pointer
from slap_jax.data.collections.lost_clips import LostClips
from slap_jax.data.collections.table_rows import UnreadRows, cells, features, read_batches, read_schema, stated_rows
from slap_jax.errors import printable

TABLE_SUFFIXES = (".parquet", ".arrow")

_NUMBERED = re.compile(r"(?P<first>.*)-\d{5}-of-(?P<count>\d{5})\.\w+")

# The files that `save_to_disk` writes next to the tables of several splits, and of one.
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
        """Lists the rows table by table; rejections for the missing rows of damaged tables come last.

        Raises:
            CollectionError: there are no rows, the columns of a table cannot be recognised, a table is a Git LFS
                pointer, or it is unknown how many rows a damaged table should hold.
        """
        return require_clips(self._entries(), self._source)

    def _entries(self) -> Iterator[Entry | Rejection]:
        import pyarrow as pa

        lost, numbered = LostClips(), Counter[tuple[str, int]]()
        for table in self._tables():
            if isinstance(table, Rejection):
                yield table
                continue
            relative, split = table
            if name := _NUMBERED.fullmatch(str(relative)):
                numbered[name["first"], int(name["count"])] += 1
            path, rows, problem = self.root / relative, 0, None
            _refuse_pointer(path)
            try:
                for clip in self._rows(relative, self._split or split):
                    if isinstance(clip, UnreadRows):
                        problem = _damaged(path, clip.reason)
                        continue
                    rows += clip.rows
                    yield clip.clip
            except UnicodeEncodeError:  # pyarrow opens no such path
                detail = f"{str(path)!r} is not a valid UTF-8 path; rename the file or folder"
                problem = RejectedClip("bad_name", detail)
            except (pa.ArrowException, OSError) as error:
                problem = _damaged(path, str(error))
            if problem is None:
                lost.add_intact(rows, split)
            else:
                lost.add_damaged(str(relative), problem, rows, stated_rows(path), split)
        yield from lost.rejections(lambda: _split_sizes(self.root))
        for (first, count), present in numbered.items():
            if present < count and self._source.is_dir():
                logging.warning(
                    "%s has %d of the %d tables %s-...: the clips of the others are not read; copy them if needed",
                    *(printable(str(self.root)), present, count, printable(first)),
                )

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
            for file in clip_files(self.root):
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

    def _rows(self, relative: PurePosixPath, split: str) -> Iterator["_Clip | UnreadRows"]:
        """Gathers the adjacent rows of each clip."""
        waiting: list[_Row] = []
        for row in self._single_rows(relative):
            if waiting and (isinstance(row, UnreadRows) or not row.key or row.key != waiting[0].key):
                yield self._clip(waiting, relative, split)
                waiting = []
            if isinstance(row, UnreadRows):
                yield row
            elif len(waiting) <= MOST_ROWS:
                waiting.append(row)
        if waiting:
            yield self._clip(waiting, relative, split)

    def _single_rows(self, relative: PurePosixPath) -> Iterator["_Row | UnreadRows"]:
        path = self.root / relative
        columns = find_columns(features(read_schema(path)), relative, **self._chosen)
        number = 0
        for batch in read_batches(path, columns):
            if isinstance(batch, UnreadRows):
                number += batch.rows
                yield batch
                continue
            rows, has_audio = batch
            values_of = {name: cells(rows, name) for name in columns.without_audio()}
            for index, present in enumerate(has_audio):
                values = {name: column[index] for name, column in values_of.items()}
                audio = TableCell(path, columns.audio, number) if present else None
                yield _Row(number, values, columns, audio)
                number += 1

    def _clip(self, rows: Sequence["_Row"], table: PurePosixPath, split: str) -> "_Clip":
        """Makes a clip of its rows, which are adjacent."""
        first = rows[0]
        id = f"{table.with_suffix('')}/{first.number}"
        number = first.number
        joined = JoinedRows(len(rows), "row")
        try:
            if first.columns.id:
                id = text_field(first.readable(), first.columns.id) or id
            for row in rows:
                number = row.number
                fields = manifest_fields(row.readable(), row.columns.captions, row.columns.labels)
                if len(rows) > 1:
                    joined.add(row.number, row.values, fields)
                else:
                    joined.fields = fields
            audio: AudioLocation | None = first.audio
            if audio is None:
                stated = _stated_path(first, table)
                id = id if first.columns.id else stated
                audio = audio_file(self._audio_root, stated)
            where = f"{table}, row {first.number}"
            entry = make_entry(joined.fields, audio, id=id, split=split, source=self.name, where=where)
        except RejectedClip as rejected:
            return _Clip(rejected.at(f"{table}, row {number}", id), len(rows))
        return _Clip(entry, len(rows))


@dataclasses.dataclass(frozen=True)
class _Row:
    """One row: its number, its values by column, and its audio if it has bytes."""

    number: int
    values: Mapping[str, Any]
    columns: TableColumns
    audio: TableCell | None

    def readable(self) -> Mapping[str, Any]:
        """Returns the values; raises the fault of the first that cannot be read."""
        for value in self.values.values():
            if isinstance(value, RejectedClip):
                raise value
        return self.values

    @property
    def key(self) -> str:
        """What identifies the clip of the row; "" if nothing does, as bytes have no name."""
        names = [self.values.get(name) for name in (self.columns.id, self.columns.path) if name]
        if not self.columns.id and self.audio is not None:
            return ""
        return "\0".join("" if name is None else str(name) for name in names).strip("\0")


@dataclasses.dataclass(frozen=True)
class _Clip:
    """A clip, and the number of its rows."""

    clip: Entry | Rejection
    rows: int


def _stated_path(row: _Row, table: PurePosixPath) -> str:
    stated = text_field(row.values, row.columns.path)
    if not stated:
        raise RejectedClip("missing_audio", f"the row has neither audio bytes nor a path in {row.columns.path!r}")
    # The paths of a metadata.parquet of `audiofolder` are relative to the table.
    return str(table.parent / stated) if row.columns.path == "file_name" else stated


def _damaged(path: Path, reason: str) -> RejectedClip:
    return RejectedClip("bad_table", f"{path} is damaged or truncated ({' '.join(reason.split())}); copy it again")


def _refuse_pointer(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return  # reading the table reports it
    if is_pointer(start):
        raise CollectionError(f"{path} {describe_pointer(start)}")


def _split_sizes(root: Path) -> dict[str, int]:
    """Returns split -> number of rows as the README or the `dataset_info.json` files of a dataset state it.

    Only of a dataset with one configuration: names of splits repeat between several.
    """
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict

    try:
        infos = list(DatasetInfosDict.from_directory(str(root)).values())
        if len(infos) > 1:
            return {}
        for file in root.glob("*/dataset_info.json"):
            infos.append(DatasetInfo.from_directory(str(file.parent)))
        if (root / "dataset_info.json").is_file():
            infos.append(DatasetInfo.from_directory(str(root)))
    except Exception:  # any fault of a file that only serves to count
        return {}
    sizes: dict[str, int] = {}
    for info in infos:
        for name, split in (info.splits or {}).items():
            sizes.setdefault(split_name(str(name)), split.num_examples)
    return sizes


def _read_json(path: Path, key: str) -> dict[str, Any]:
    """Reads an object with at least a list under one key."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CollectionError(f"{path} cannot be read ({error}); save the dataset again") from error
    if not isinstance(values, dict) or not isinstance(values.get(key), list):
        raise CollectionError(f"{path} has no list {key!r}, as save_to_disk() writes it; save the dataset again")
    return values
