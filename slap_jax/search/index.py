"""The one small file that says what an index holds; replacing it is what makes an update count.

An index as a search reads it: its vectors and times as memory maps, its files as a table.

What an index knows about files, as a journal of changes: one JSON object a line, never rewritten.

Vectors belong to contents (the hash of a file's bytes), and paths refer to contents. A file that is moved, renamed or
copied is therefore never embedded again.

    {"content": "5f0c...", "first": 12, "rows": 3}                             its vectors are rows 12 to 14
    {"path": "a/b.wav", "size": 32044, "mtime_ns": 17..., "content": "5f0c..."}   a file, or what it is now
    {"path": "a/b.wav"}                                                        the file is gone
"""

import dataclasses
import functools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from slap_jax.atomic import atomic_file
from slap_jax.errors import UserError

FORMAT = "slap_search_index"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"

# Where the index of a folder lies unless said otherwise: inside, where it moves along with its recordings.
INDEX_FOLDER = ".slap_index"
_SHORTEST_HOP = 0.01  # seconds
NUMBER_TYPES = {"float32": "<f4", "float16": "<f2"}


class SearchError(UserError, ValueError):
    """An index that cannot be read, written or searched; the message names it and what to do."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is finished of an index. Bytes that its files hold beyond this belong to an update that was cut off.

    Attributes:
        model_id: of the model that made the vectors.
        embed_dim: E.
        number_type: of the stored vectors, "float32" or "float16".
        window_seconds: longer recordings are cut into windows of this length.
        hop_seconds: from the start of a window to that of the next.
        root: folder of the recordings; ".." if the index lies inside it, else absolute.
        generation: number of the folder that holds the data; an index that is packed anew counts up.
        rows: finished vectors.
        journal_bytes: finished bytes of the journal.
        approximate_rows: how many of the vectors, from the first on, the approximate index knows; 0 without one.
    """

    model_id: str
    embed_dim: int
    number_type: str
    window_seconds: float
    hop_seconds: float
    root: str
    generation: int = 1
    rows: int = 0
    journal_bytes: int = 0
    approximate_rows: int = 0

    @property
    def data_folder(self) -> str:
        """Name of the folder, beside the manifest, that holds the data."""
        return f"data-{self.generation:06d}"

    @property
    def graph_file(self) -> str:
        """Name of the file, beside the manifest, with the graph of neighbours of this generation's rows."""
        return f"graph-{self.generation:06d}.usearch"

    def check_settings(self) -> None:
        """Raises `SearchError` for settings that no index can have."""
        if self.number_type not in NUMBER_TYPES:
            raise SearchError(f"number_type {self.number_type!r} is not known; choose from {', '.join(NUMBER_TYPES)}")
        if not _SHORTEST_HOP <= self.hop_seconds <= self.window_seconds < math.inf:
            raise SearchError(
                f"windows of {self.window_seconds} s every {self.hop_seconds} s: expected a hop of at least "
                f"{_SHORTEST_HOP} s and of at most the window's length"
            )

    def write(self, index: Path) -> None:
        """Puts this manifest in the place of the former one, at once."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        with atomic_file(index / MANIFEST) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, index: Path) -> "Manifest":
        """Reads the manifest of an index.

        Raises:
            SearchError: there is none, or it is damaged or of another version.
        """
        file = index / MANIFEST
        if not file.is_file():
            raise SearchError(
                f"{index} is no index: it has no {MANIFEST}; make one with `slap index FOLDER --model DIR`"
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            found = (content.pop("format"), content.pop("format_version"))
            if found == (FORMAT, FORMAT_VERSION):
                return cls(**content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SearchError(
                f"{file} is damaged ({type(error).__name__}: {error}); delete {index} and run `slap index` again"
            ) from None
        raise SearchError(
            f"{file} has format {found[0]!r} version {found[1]!r}, expected {FORMAT!r} version {FORMAT_VERSION}: "
            f"delete {index} and run `slap index` again, or install the version of slap_jax that wrote it"
        )

    def check_model(self, index: Path, model_id: str, embed_dim: int) -> None:
        """Refuses vectors of another model, with which nothing can be compared.

        Raises:
            SearchError: the index was made with another model.
        """
        if (model_id, embed_dim) != (self.model_id, self.embed_dim):
            raise SearchError(
                f"{index} was made with model {self.model_id} ({self.embed_dim} numbers a vector), but this is model "
                f"{model_id} ({embed_dim}): use the former, or make the index anew with `slap index FOLDER --model DIR "
                "--rebuild`"
            )


def find_index(path: Path) -> Path:
    """Returns the index that a path means: the path itself, or the index inside that folder.

    Raises:
        SearchError: there is neither.
    """
    for candidate in (path, path / INDEX_FOLDER):
        if (candidate / MANIFEST).is_file():
            return candidate
    raise SearchError(f"{path} has no index; make one with `slap index {path} --model DIR`")


VECTORS, TIMES, JOURNAL = "vectors.bin", "times.bin", "journal.jsonl"


class SearchIndex:
    """What was finished of an index at the moment of opening; an update at the same time does not disturb it.

    Attributes:
        path: of the index.
        root: folder of the recordings.
        manifest: what it holds, and of which model.
        contents: its files.
        vectors: unit vectors [n, E], on disk until they are looked at.
        times: start and end of each vector's window in seconds [n, 2].
    """

    def __init__(self, path: str | Path):
        """Opens an index.

        Args:
            path: of the index, or of the folder that it lies in.

        Raises:
            SearchError: there is no index, or it is damaged.
        """
        self.path = find_index(Path(path))
        self.manifest = Manifest.read(self.path)
        try:
            self._open()
        except FileNotFoundError:  # it was packed anew between the two steps
            self.manifest = Manifest.read(self.path)
            self._open()
        root = Path(self.manifest.root)
        # Without the detour "DIR/.slap_index/..", which would show in every hit.
        self.root = root if root.is_absolute() else self.path.parent

    def _open(self) -> None:
        manifest, folder = self.manifest, self.path / self.manifest.data_folder
        try:
            with (folder / JOURNAL).open("rb") as file:
                journal = file.read(manifest.journal_bytes)
            if len(journal) < manifest.journal_bytes:
                raise ValueError(f"{JOURNAL} holds {len(journal)} bytes of {manifest.journal_bytes}")
            self.contents = Contents(journal)
            self.contents.check(manifest.rows)
            number_type = NUMBER_TYPES[manifest.number_type]
            self.vectors: Float[np.ndarray, "n E"] = _map(
                folder / VECTORS, number_type, manifest.rows, manifest.embed_dim
            )
            self.times: Float[np.ndarray, "n 2"] = _map(folder / TIMES, "<f8", manifest.rows, 2)
        except (ValueError, KeyError) as error:
            raise SearchError(
                f"{folder} is damaged ({error}); delete {self.path} and run `slap index` again"
            ) from error

    def __len__(self) -> int:
        return len(self.contents.files)

    def check_model(self, model_id: str, embed_dim: int) -> None:
        """Raises `SearchError` unless this model made the index."""
        self.manifest.check_model(self.path, model_id, embed_dim)

    @functools.cached_property
    def paths_of_content(self) -> list[list[str]]:
        """Paths of the files that are there, those with the same bytes together."""
        paths: dict[str, list[str]] = {}
        for path, state in self.contents.files.items():
            paths.setdefault(state.content, []).append(path)
        return [sorted(group) for group in paths.values()]

    @functools.cached_property
    def content_of_row(self) -> Int[np.ndarray, " n"]:
        """For each vector the place in `paths_of_content`, or -1 if no file has it any more."""
        content_of_row = np.full(self.manifest.rows, -1, np.int64)
        for number, group in enumerate(self.paths_of_content):
            first, rows = self.contents.rows[self.contents.files[group[0]].content]
            content_of_row[first : first + rows] = number
        return content_of_row


def _map(file: Path, number_type: str, rows: int, columns: int) -> np.ndarray:
    """Maps the finished rows of a file."""
    size = rows * columns * np.dtype(number_type).itemsize
    if file.stat().st_size < size:
        raise ValueError(f"{file.name} holds {file.stat().st_size} bytes of {size}")
    if rows == 0:  # an empty file cannot be mapped
        return np.zeros((0, columns), number_type)
    return np.memmap(file, number_type, "r", shape=(rows, columns))


@dataclasses.dataclass(frozen=True)
class FileState:
    """A file as it was when it was indexed.

    Attributes:
        size: in bytes.
        mtime_ns: time of its last change.
        content: hash of its bytes.
    """

    size: int
    mtime_ns: int
    content: str


class Contents:
    """The state that a journal tells.

    Attributes:
        files: path relative to the root, with "/", to its state.
        rows: content to (first row, number of rows).
    """

    def __init__(self, journal: bytes = b""):
        """Replays a journal.

        Raises:
            ValueError: a line is not one of those above.
        """
        self.files: dict[str, FileState] = {}
        self.rows: dict[str, tuple[int, int]] = {}
        for line in journal.splitlines():
            self.apply(json.loads(line))

    def apply(self, entry: dict[str, Any]) -> None:
        """Takes over one line of the journal."""
        try:
            if "path" not in entry:
                self.rows[entry["content"]] = (entry["first"], entry["rows"])
            elif "content" in entry:
                self.files[entry["path"]] = FileState(entry["size"], entry["mtime_ns"], entry["content"])
            else:
                self.files.pop(entry["path"], None)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{entry!r} is no entry of a journal") from error

    def check(self, rows: int) -> None:
        """Compares with the number of rows that are finished.

        Raises:
            ValueError: a content has rows beyond these, or a file a content without rows.
        """
        beyond = [content for content, (first, count) in self.rows.items() if first + count > rows]
        lost = [path for path, state in self.files.items() if state.content not in self.rows]
        if beyond or lost:
            raise ValueError(f"the vectors of {(beyond + lost)[0]!r} are missing")

    def live_rows(self) -> int:
        """How many rows belong to a file that is still there."""
        return sum(self.rows[content][1] for content in {state.content for state in self.files.values()})

    def entries(self) -> Iterable[dict[str, Any]]:
        """Yields the shortest journal that tells this state, contents without a file left out."""
        live = {state.content for state in self.files.values()}
        for content, (first, rows) in self.rows.items():
            if content in live:
                yield {"content": content, "first": first, "rows": rows}
        for path, state in self.files.items():
            yield file_entry(path, state)


def file_entry(path: str, state: FileState) -> dict[str, Any]:
    """The line of a file that is there."""
    return {"path": path, **dataclasses.asdict(state)}
