"""An index as a search reads it: its vectors and times as memory maps, its files as a table."""

import functools
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from slap_jax.search.contents import Contents
from slap_jax.search.manifest import NUMBER_TYPES, Manifest, SearchError, find_index

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
