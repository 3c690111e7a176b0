"""The one small file that says what an index holds; replacing it is what makes an update count."""

import dataclasses
import json
import math
from pathlib import Path

from slap_jax.data.atomic_file import atomic_file

FORMAT = "slap_search_index"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
# Where the index of a folder lies unless said otherwise: inside, where it moves along with its recordings.
INDEX_FOLDER = ".slap_index"
_SHORTEST_HOP = 0.01  # seconds
NUMBER_TYPES = {"float32": "<f4", "float16": "<f2"}


class SearchError(ValueError):
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
