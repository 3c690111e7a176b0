"""The index of a folder of recordings, stored as two LanceDB tables.

- `windows` holds the unit vector of each window, with its start and end in seconds and the digest of the bytes of its
  file (`content`). The metadata of its schema holds the settings of the index.
- `files` holds the path, size, modification time and content of each recording.

Vectors belong to contents, and paths refer to contents. A file that was moved, copied or touched keeps its vectors.

Each LanceDB commit is atomic, but the tables are committed one after the other. Two rules keep them consistent, so a
writer may be killed at any point: a writer adds windows before it adds the files that refer to them, and removes
windows only after the last of those files; a reader opens `files` first.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import math
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.errors import UserError

INDEX_FOLDER = ".slap_index"  # default folder of an index, inside the folder of recordings so that it moves with it
FORMAT_VERSION = 2
NUMBER_TYPES = ("float32", "float16")
WINDOWS, FILES = "windows", "files"

_SETTINGS_KEY = b"slap_search_index"
_ID_KEY = b"slap_search_index_id"
_VECTOR_INDEX = "vector_idx"
_PROBES = 64  # partitions that an approximate search compares with; LanceDB's default of 20 misses 9 % of a million
_SHORTEST_HOP = 0.01  # seconds
_OLD_MANIFEST = "manifest.json"  # of format version 1, which did not use LanceDB


class SearchError(UserError, ValueError):
    """An index that cannot be read, written or searched."""


class LanceError(SearchError):
    """LanceDB cannot read or write the index."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that all windows of an index share.

    Attributes:
        model_id: ID of the model that computed the vectors.
        embed_dim: E, the length of a vector.
        number_type: Type of the stored vectors, "float32" or "float16".
        window_seconds: Length of a window; shorter recordings are one window.
        hop_seconds: Time between the starts of consecutive windows.
        root: Folder of the recordings; ".." if the index is inside it, otherwise an absolute path.
    """

    model_id: str
    embed_dim: int
    number_type: str
    window_seconds: float
    hop_seconds: float
    root: str

    def check(self) -> None:
        """Raises `SearchError` if a value is out of range."""
        if self.number_type not in NUMBER_TYPES:
            raise SearchError(f"number_type is {self.number_type!r}; expected one of {', '.join(NUMBER_TYPES)}")
        if not _SHORTEST_HOP <= self.hop_seconds <= self.window_seconds < math.inf:
            raise SearchError(
                f"windows of {self.window_seconds} s every {self.hop_seconds} s: expected a hop of at least "
                f"{_SHORTEST_HOP} s and at most the length of a window"
            )

    def check_model(self, index: Path, model_id: str, embed_dim: int) -> None:
        """Raises `SearchError` if another model computed the vectors; they cannot be compared."""
        if (model_id, embed_dim) != (self.model_id, self.embed_dim):
            raise SearchError(
                f"{index} was made with model {self.model_id} ({self.embed_dim} dimensions), but this is model "
                f"{model_id} ({embed_dim} dimensions): use the former, or build the index again with "
                "`slap index FOLDER --model DIR --rebuild`"
            )


@dataclasses.dataclass(frozen=True)
class FileState:
    """A file at the time it was indexed.

    Attributes:
        size: Size in bytes.
        mtime_ns: Modification time.
        content: Digest of the bytes.
    """

    size: int
    mtime_ns: int
    content: str


class SearchIndex:
    """A snapshot of an index. Updates by other processes do not change it until `refresh`.

    Attributes:
        path: Folder of the index.
        settings: Settings of the index.
        files: Path relative to `root`, with "/", to the state of the file.
        paths_of_content: Content to the paths of the files that have it.
        windows: LanceDB table.
        files_table: LanceDB table.
    """

    def __init__(self, path: str | Path):
        """Opens an index.

        Args:
            path: The index, or the folder of recordings that contains it.

        Raises:
            SearchError: There is no index, it is damaged or of an older format, or LanceDB is not installed.
        """
        path = Path(path)
        self.path = next((folder for folder in (path, path / INDEX_FOLDER) if _is_index(folder)), path)
        tables = open_tables(self.path)
        if tables is None:
            source = path if path.is_dir() else f"FOLDER --index {path}"
            raise SearchError(f"{path} has no index; make one with `slap index {source} --model DIR`")
        self._read(*tables)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def root(self) -> Path:
        """The folder of the recordings."""
        root = Path(self.settings.root)
        return root if root.is_absolute() else self.path.parent  # not "FOLDER/.slap_index/.."

    def refresh(self) -> None:
        """Moves the snapshot to the newest version.

        Raises:
            SearchError: The index is gone, or is damaged.
        """
        # LanceDB's `checkout_latest` misses that the tables were deleted and created again.
        tables = open_tables(self.path)
        if tables is None:
            raise SearchError(f"{self.path} is gone; make it again with `slap index FOLDER --model DIR`")
        if _version(*tables) != _version(self.windows, self.files_table):  # otherwise keep what LanceDB has cached
            self._read(*tables)

    def _read(self, windows: Any, files_table: Any) -> None:
        with lance_errors(self.path):
            self.settings = _read_settings(self.path, windows.schema.metadata)
            rows = files_table.search().to_arrow().to_pylist()
        self.windows, self.files_table = windows, files_table
        self.files: dict[str, FileState] = {row.pop("path"): FileState(**row) for row in rows}
        self.paths_of_content: dict[str, list[str]] = {}
        for path, state in self.files.items():
            self.paths_of_content.setdefault(state.content, []).append(path)

    def check_model(self, model_id: str, embed_dim: int) -> None:
        """Raises `SearchError` unless this model made the index."""
        self.settings.check_model(self.path, model_id, embed_dim)

    @property
    def has_vector_index(self) -> bool:
        """Whether the index supports approximate search."""
        return any(found.name == _VECTOR_INDEX for found in self.windows.list_indices())

    def nearest(self, query: Float[np.ndarray, " E"], count: int, approximate: bool = False) -> Any:
        """Returns the windows that are nearest to a query.

        Args:
            query: Unit vector.
            count: Number of windows.
            approximate: Compare only with the partitions of the vector index that are nearest to the query, and with
                windows that are not in the vector index yet.

        Returns:
            An Arrow table with `content`, `start`, `end` and `vector`. It has fewer than `count` rows if the index, or
            the partitions, hold no more.
        """
        with lance_errors(self.path):
            search = self.windows.search(np.asarray(query, np.float32), vector_column_name="vector").limit(count)
            search = search.select(["content", "start", "end", "vector", "_distance"])
            if approximate:
                return search.distance_type("cosine").nprobes(_PROBES).to_arrow()
            return search.distance_type("dot").bypass_vector_index().to_arrow()

    def update_vector_index(self) -> None:
        """Builds the index for approximate search, or adds the windows that it does not hold."""
        from lancedb.index import IvfSq

        stats = self.windows.index_stats(_VECTOR_INDEX) if self.has_vector_index else None
        if stats is None or stats.num_unindexed_rows > stats.num_indexed_rows:  # partitions are too few, or unfit
            # On 100,000 vectors of 512 numbers, IVF_PQ took 40 times as long to build and found fewer of the nearest.
            self.windows.create_index("vector", config=IvfSq(distance_type="cosine"), replace=True)
        if stats is not None and stats.num_unindexed_rows:
            self.compact()

    def compact(self) -> None:
        """Merges small fragments, adds new windows to the vector index and removes old versions from the disk."""
        for table in (self.files_table, self.windows):
            _compact(table)


def open_tables(index: Path) -> tuple[Any, Any] | None:
    """Returns the tables `windows` and `files` of an index, or None if there is no index.

    Raises:
        SearchError: The index is damaged or of an older format, or LanceDB is not installed.
    """
    if _has_old_format(index):
        raise SearchError(
            f"{index} has the format of slap_jax 0.1, which this version does not read: build it again with `slap "
            "index FOLDER --model DIR --rebuild`"
        )
    if not _is_index(index):
        return None
    database = _connect(index)
    with lance_errors(index):
        files_table = database.open_table(FILES)
        return database.open_table(WINDOWS), files_table


def create_tables(index: Path, settings: Settings) -> None:
    """Creates an empty index in place of the present one.

    Raises:
        SearchError: A setting is out of range, or LanceDB is not installed.
    """
    settings.check()
    database = _connect(index)
    import pyarrow as pa  # LanceDB brings it

    number_type = pa.float32() if settings.number_type == "float32" else pa.float16()
    content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(settings)}
    windows = {
        "content": pa.string(),
        "start": pa.float64(),
        "end": pa.float64(),
        "vector": pa.list_(number_type, settings.embed_dim),
    }
    files = {"path": pa.string(), "size": pa.int64(), "mtime_ns": pa.int64(), "content": pa.string()}
    schemas = {
        FILES: pa.schema(files, metadata={_ID_KEY: uuid.uuid4().hex}),  # first: windows without files are not searched
        WINDOWS: pa.schema(windows, metadata={_SETTINGS_KEY: json.dumps(content)}),
    }
    with lance_errors(index):
        for name, schema in schemas.items():
            mode = "overwrite" if (index / f"{name}.lance").exists() else "create"
            _compact(database.create_table(name, schema=schema, mode=mode))
    _remove_old_format(index)


@contextlib.contextmanager
def only_writer(index: Path) -> Iterator[None]:
    """Locks an index against other writers. A killed process releases its lock.

    Raises:
        SearchError: Another process holds the lock.
    """
    index.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(index, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SearchError(
                f"another `slap index` is writing to {index}; wait until it has finished, or stop it"
            ) from error
        except OSError:
            pass  # a network file system without locks
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lance_errors(index: Path) -> Iterator[None]:
    """Turns the errors of LanceDB, which are Python's general ones, into a `LanceError` that names the index."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise LanceError(
            f"LanceDB cannot read or write {index} ({reason}); if the disk is not full and the error stays, delete "
            f"{index} and run `slap index` again"
        ) from error


def _is_index(folder: Path) -> bool:
    # A table exists once its first version is committed.
    return _has_old_format(folder) or all(
        next((folder / f"{name}.lance" / "_versions").glob("*.manifest"), None) for name in (WINDOWS, FILES)
    )


def _connect(index: Path) -> Any:
    try:
        import lancedb  # takes seconds
    except ImportError:
        raise SearchError("a search index needs lancedb, which is missing: pip install 'slap-jax[search]'") from None
    return lancedb.connect(os.path.abspath(index))  # absolute: "a:b" would be read as a URL


def _version(windows: Any, files_table: Any) -> tuple[Any, ...]:
    # An index that was deleted and created again counts from 1 again; the ID tells it from the former.
    return (files_table.schema.metadata or {}).get(_ID_KEY), files_table.version, windows.version


def _compact(table: Any) -> None:
    with warnings.catch_warnings():
        # Old versions may be as large as the table, so none is kept. LanceDB warns that a search may be reading one;
        # ours then moves to the newest. A longer age, even of 1 ms, would keep the versions that compaction itself
        # makes, and with them all old data.
        warnings.filterwarnings("ignore", r"optimize\(cleanup_older_than=0\)", UserWarning)
        table.optimize(cleanup_older_than=datetime.timedelta(0))


def _read_settings(index: Path, metadata: dict[bytes, bytes] | None) -> Settings:
    content = json.loads((metadata or {})[_SETTINGS_KEY])
    version = content.pop("format_version")
    if version != FORMAT_VERSION:
        raise SearchError(
            f"{index} has format version {version}, expected {FORMAT_VERSION}: build it again with `slap index FOLDER "
            "--model DIR --rebuild`, or install the version of slap_jax that wrote it"
        )
    return Settings(**content)


def _has_old_format(folder: Path) -> bool:
    file = folder / _OLD_MANIFEST
    return file.is_file() and b'"slap_search_index"' in file.read_bytes()


def _remove_old_format(index: Path) -> None:
    if _has_old_format(index):
        for folder in index.glob("data-" + 6 * "[0-9]"):
            shutil.rmtree(folder)
        for file in (*index.glob("graph-*.usearch"), index / _OLD_MANIFEST):
            file.unlink(missing_ok=True)
