"""Adding to an index so that whatever moment the program ends at, all that was finished before is there and readable.

The data files only grow. A step is finished when the manifest, which is replaced at once, counts its bytes; what a
killed program left beyond that is cut off by the next one that writes.
"""

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.search.index import JOURNAL, NUMBER_TYPES, TIMES, VECTORS, Manifest, SearchError, SearchIndex

_COPIED_ROWS = 1 << 14


class IndexWriter:
    """Writes to one index, alone.

    Attributes:
        manifest: of what is finished.
        contents: what is finished and what is being added.
    """

    def __init__(self, index: Path, manifest: Manifest | None = None):
        """Opens an index, or with a manifest starts one in the place of what is there.

        Args:
            index: its folder, which exists and is locked by the caller.
            manifest: of an empty index.
        """
        self.index = index
        if manifest is not None:
            manifest = dataclasses.replace(manifest, generation=_newest_generation(index) + 1)
            _make_files(index / manifest.data_folder)
            manifest.write(index)
        found = SearchIndex(index)
        self.manifest, self.contents = found.manifest, found.contents
        _remove_leftovers(index, self.manifest)
        folder = index / self.manifest.data_folder
        row_bytes = self.manifest.embed_dim * np.dtype(NUMBER_TYPES[self.manifest.number_type]).itemsize
        self._vectors = _open_at(folder / VECTORS, self.manifest.rows * row_bytes)
        self._times = _open_at(folder / TIMES, self.manifest.rows * 16)
        self._journal = _open_at(folder / JOURNAL, self.manifest.journal_bytes)
        self._rows = self.manifest.rows

    def add_content(self, content: str, times: Float[np.ndarray, "w 2"], vectors: Float[np.ndarray, "w E"]) -> None:
        """Adds the vectors of a content; they count after `commit`."""
        self._vectors.write(np.ascontiguousarray(vectors, NUMBER_TYPES[self.manifest.number_type]).tobytes())
        self._times.write(np.ascontiguousarray(times, "<f8").tobytes())
        self.note({"content": content, "first": self._rows, "rows": len(vectors)})
        self._rows += len(vectors)

    def note(self, entry: dict[str, Any]) -> None:
        """Adds a line of the journal; it counts after `commit`."""
        self.contents.apply(entry)
        self._journal.write(json.dumps(entry).encode() + b"\n")

    def commit(self) -> None:
        """Finishes what was added so far."""
        for file in (self._vectors, self._times, self._journal):
            file.flush()
            os.fsync(file.fileno())
        self.manifest = dataclasses.replace(self.manifest, rows=self._rows, journal_bytes=self._journal.tell())
        self.manifest.write(self.index)

    def close(self) -> None:
        """Closes the files; what was not committed is lost."""
        for file in (self._vectors, self._times, self._journal):
            file.close()


def pack_anew(index: Path) -> None:
    """Writes the index without the vectors of files that are gone, beside the old data, and then changes over."""
    found = SearchIndex(index)
    manifest = dataclasses.replace(
        found.manifest, generation=_newest_generation(index) + 1, rows=0, journal_bytes=0, approximate_rows=0
    )
    folder = index / manifest.data_folder
    _make_files(folder)
    rows = 0
    with (
        (folder / VECTORS).open("wb") as vectors,
        (folder / TIMES).open("wb") as times,
        (folder / JOURNAL).open("wb") as journal,
    ):
        for entry in found.contents.entries():
            if "path" not in entry:
                for first, last in _steps(entry["first"], entry["rows"]):
                    vectors.write(found.vectors[first:last].tobytes())
                    times.write(found.times[first:last].tobytes())
                entry["first"], rows = rows, rows + entry["rows"]
            journal.write(json.dumps(entry).encode() + b"\n")
        journal_bytes = journal.tell()
        for file in (vectors, times, journal):
            file.flush()
            os.fsync(file.fileno())
    manifest = dataclasses.replace(manifest, rows=rows, journal_bytes=journal_bytes)
    manifest.write(index)
    _remove_leftovers(index, manifest)


@contextmanager
def only_writer(index: Path) -> Iterator[None]:
    """Keeps other writers out of an index; a process that is killed lets go.

    Raises:
        SearchError: another process is writing to it.
    """
    index.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(index, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SearchError(
                f"another `slap index` is writing to {index}; wait until it is done, or stop it"
            ) from error
        except OSError:
            pass  # a network file system without locks
        yield
    finally:
        os.close(descriptor)


def _steps(first: int, rows: int) -> Iterable[tuple[int, int]]:
    last = first + rows
    return ((start, min(start + _COPIED_ROWS, last)) for start in range(first, last, _COPIED_ROWS))


def _make_files(folder: Path) -> None:
    folder.mkdir()
    for name in (VECTORS, TIMES, JOURNAL):
        (folder / name).touch()


def _open_at(file: Path, size: int) -> Any:
    """Opens a file to append to, cut off where what is finished ends."""
    opened = file.open("r+b")
    opened.truncate(size)
    opened.seek(size)
    return opened


def _data_folders(index: Path) -> dict[int, Path]:
    return {int(folder.name[5:]): folder for folder in index.glob("data-*") if folder.name[5:].isdigit()}


def _newest_generation(index: Path) -> int:
    return max(_data_folders(index), default=0)


def _remove_leftovers(index: Path, manifest: Manifest) -> None:
    """Removes what the manifest does not name any more, and files that a killed program was about to put in place."""
    for generation, folder in _data_folders(index).items():
        if generation != manifest.generation:
            shutil.rmtree(folder, ignore_errors=True)
    graphs = {*index.glob("graph-*.usearch")} - {index / manifest.graph_file}
    for file in (*graphs, *index.glob(".*.part")):
        file.unlink(missing_ok=True)
