"""Brings the index of a folder up to date. Only new and changed contents are embedded."""

import dataclasses
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from slap_jax.data.audio import AudioError, check_name
from slap_jax.data.collections.entries import Rejection
from slap_jax.inference.audio_input import DecodedFile
from slap_jax.inference.many_files import GROUP, NoInputError, audio_files, over_files
from slap_jax.inference.protocol import EmbeddingModel
from slap_jax.search.index import (
    INDEX_FOLDER,
    FileState,
    SearchError,
    SearchIndex,
    Settings,
    create_tables,
    lance_errors,
    only_writer,
    open_tables,
)

_WINDOW_SECONDS = 10.0
_COMMIT_SECONDS = 5.0  # a killed update loses at most this much work, and the files that are being embedded
_MOST_FRAGMENTS = 100  # each commit adds one; many of them slow the search down
_SMALLEST_VACUUM = 4_096  # windows; fewer are not worth the work
_DELETED_AT_ONCE = 1_000

_Embedded = tuple[Float[np.ndarray, "w 2"], Float[np.ndarray, "w E"]]


@dataclasses.dataclass
class Update:
    """What an update did.

    Attributes:
        index: Folder of the index.
        unchanged: Number of files whose size and modification time are as before.
        known: Number of files whose bytes the index knew: they were moved, copied or touched.
        embedded: Number of files that the model embedded.
        removed: Number of files that are gone or can no longer be read.
        windows: Number of windows of all files in the index.
        bad: Path and reason of each file and folder that was left out.
    """

    index: str
    unchanged: int = 0
    known: int = 0
    embedded: int = 0
    removed: int = 0
    windows: int = 0
    bad: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    @property
    def files(self) -> int:
        """Number of files in the index."""
        return self.unchanged + self.known + self.embedded


def update_index(
    model: EmbeddingModel,
    folder: Path,
    index: Path | None = None,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
    number_type: str | None = None,
    rebuild: bool = False,
    approximate: bool = False,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> Update:
    """Indexes the audio files in a folder, or brings their index up to date.

    The process may be killed at any time. The index stays readable, and the next update resumes.

    Args:
        model: Model that embeds the recordings.
        folder: Folder of recordings. Hidden files and folders are skipped.
        index: Folder of the index; None for `.slap_index` in `folder`.
        window_seconds: Length of the windows of longer recordings. Shorter recordings are one window. None for the
            length that the index has; in a new index 10, or what the model embeds whole if that is less.
        hop_seconds: Time between the starts of windows. None for that of the index, or half a window in a new one.
        number_type: Type of the stored vectors: "float32", or "float16" for half the size. None for that of the index,
            or "float32" in a new one.
        rebuild: Start again with an empty index.
        approximate: Also build the vector index that approximate search uses. Later updates keep it up to date.
        progress: Whether to show a progress bar; None to show it on a terminal.
        batch_size: Largest number of recordings that the model embeds at a time; None for its default.

    Raises:
        NoInputError: The folder holds no audio file. The index is left as it was.
        SearchError: The index belongs to another model, other settings or another folder, is being written by another
            process, is damaged, or has an older format; or LanceDB is not installed.
    """
    if not folder.is_dir():
        raise NoInputError(f"{folder} is not a folder; give one with recordings")
    if index is None or index.resolve() == (folder / INDEX_FOLDER).resolve():
        index, root = folder / INDEX_FOLDER, ".."
    else:
        root = str(folder.resolve())
    listed = list(audio_files(folder))
    files = [item for item in listed if not isinstance(item, Rejection)]
    bad = [(item.where, item.detail) for item in listed if isinstance(item, Rejection)]
    if not files:
        raise NoInputError(f"{folder} holds no audio files (hidden ones are skipped); the index was left as it was")
    with only_writer(index):
        if rebuild or open_tables(index) is None:
            usual = min(_WINDOW_SECONDS, model.max_seconds)
            seconds = usual if window_seconds is None else float(window_seconds)
            hop = seconds / 2 if hop_seconds is None else float(hop_seconds)
            settings = Settings(model.model_id, model.embed_dim, number_type or "float32", seconds, hop, root)
            create_tables(index, settings)
        present = SearchIndex(index)
        present.check_model(model.model_id, model.embed_dim)
        _check_settings(
            present,
            window_seconds=window_seconds,
            hop_seconds=hop_seconds,
            number_type=number_type,
            root=root,
        )
        writer = IndexWriter(present)
        update = _Updating(model, folder, writer, Update(str(index), bad=bad), progress, batch_size).run(files)
        writer.finish(approximate)
        update.windows = writer.live_windows()
    return update


def _check_settings(index: SearchIndex, **asked: Any) -> None:
    for name, value in asked.items():
        present = getattr(index.settings, name)
        if value not in (None, present):
            raise SearchError(
                f"{index.path} has {'folder' if name == 'root' else name} {present}, but {value} was asked for: omit "
                "the setting, build the index again with --rebuild, or make another one with --index"
            )


class IndexWriter:
    """Collects changes to an index and commits them.

    Attributes:
        files: State of each file, changes that are not committed yet included.
        contents: Number of windows of each content, likewise.
    """

    def __init__(self, index: SearchIndex):
        self._index = index
        self.settings = index.settings
        self._schema = index.windows.schema
        with lance_errors(index.path):
            counts = index.windows.search().select(["content"]).to_arrow()["content"].value_counts()
        self.contents: dict[str, int] = {item["values"]: item["counts"] for item in counts.to_pylist()}
        # A file whose windows are missing, which only damage can cause, is indexed as if it were new.
        self.files = {path: state for path, state in index.files.items() if state.content in self.contents}
        self._new_windows: list[Any] = []
        self._new_files: list[str] = []
        self._gone: list[str] = []
        self._committed_at = time.monotonic()

    def add_windows(self, content: str, times: Float[np.ndarray, "w 2"], vectors: Float[np.ndarray, "w E"]) -> None:
        """Adds the windows of a content, with their start and end in seconds."""
        import pyarrow as pa

        number_type = self._schema.field("vector").type.value_type
        flat = np.asarray(vectors, number_type.to_pandas_dtype()).ravel()
        columns = [
            pa.array([content] * len(vectors), pa.string()),
            pa.array(times[:, 0], pa.float64()),
            pa.array(times[:, 1], pa.float64()),
            pa.FixedSizeListArray.from_arrays(pa.array(flat, number_type), vectors.shape[1]),
        ]
        self._new_windows.append(pa.record_batch(columns, schema=self._schema))
        self.contents[content] = len(vectors)

    def set_file(self, path: str, state: FileState) -> None:
        """Adds a file or changes its state. The windows of its content must have been added."""
        self.files[path] = state
        self._new_files.append(path)

    def remove_file(self, path: str) -> None:
        """Removes a file; its windows stay until `finish` removes them."""
        del self.files[path]
        self._gone.append(path)

    def commit_if_due(self) -> None:
        """Commits if the last commit was some seconds ago."""
        if time.monotonic() - self._committed_at >= _COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Commits windows before the files that refer to them."""
        import pyarrow as pa

        with lance_errors(self._index.path):
            if self._new_windows:
                self._index.windows.add(pa.Table.from_batches(self._new_windows))
            if self._new_files:
                rows = [{"path": path, **dataclasses.asdict(self.files[path])} for path in self._new_files]
                merge = self._index.files_table.merge_insert("path")
                merge = merge.when_matched_update_all().when_not_matched_insert_all()
                merge.execute(pa.Table.from_pylist(rows, schema=self._index.files_table.schema))
            _delete(self._index.files_table, "path", self._gone)
            tables = (self._index.windows, self._index.files_table)
            if any(table.stats()["fragment_stats"]["num_fragments"] > _MOST_FRAGMENTS for table in tables):
                self._index.compact()
        self._new_windows, self._new_files, self._gone = [], [], []
        self._committed_at = time.monotonic()

    def live_windows(self) -> int:
        """Returns the number of windows that belong to a file."""
        return sum(self.contents[content] for content in {state.content for state in self.files.values()})

    def finish(self, approximate: bool) -> None:
        """Commits, removes windows without a file if they are the majority, and updates the vector index if wanted."""
        self.commit()
        with lance_errors(self._index.path):
            if sum(self.contents.values()) > max(_SMALLEST_VACUUM, 2 * self.live_windows()):
                live = {state.content for state in self.files.values()}
                _delete(self._index.windows, "content", sorted({*self.contents} - live))
                self._index.compact()
            if approximate or self._index.has_vector_index:
                self._index.update_vector_index()


def _delete(table: Any, column: str, values: list[str]) -> None:
    for start in range(0, len(values), _DELETED_AT_ONCE):
        quoted = ("'" + value.replace("'", "''") + "'" for value in values[start : start + _DELETED_AT_ONCE])
        table.delete(f"{column} IN ({', '.join(quoted)})")


class _Updating:
    """One update, file by file."""

    def __init__(
        self,
        model: EmbeddingModel,
        folder: Path,
        writer: IndexWriter,
        update: Update,
        progress: bool | None,
        batch_size: int | None,
    ):
        self._batch_size = batch_size
        self._model, self._folder, self._writer, self._update = model, folder, writer, update
        self._hidden = None if progress is None else not progress
        self._states: dict[str, FileState] = {}  # files that are being embedded
        self._copies: list[tuple[str, str]] = []  # files, each with the file in `_states` that has the same bytes

    def run(self, files: list[str]) -> Update:
        unlisted = tuple(f"{path}/" for path, _ in self._update.bad)  # files in these folders may still exist
        for path in sorted({*self._writer.files} - {*files}):
            if not path.startswith(unlisted):
                self._remove(path)
        settings = self._writer.settings
        rate, window, hop = self._model.sample_rate, settings.window_seconds, settings.hop_seconds

        def embed_clips(clips: list[DecodedFile]) -> list[_Embedded]:
            limit = {} if self._batch_size is None else {"batch_size": self._batch_size}
            vectors = self._model.embed_audio(clips, **limit)
            return [
                (np.array([[0.0, len(clip.samples) / rate]]), vector[None])
                for clip, vector in zip(clips, vectors, strict=True)
            ]

        def embed_long(item: Any) -> _Embedded:
            windows = self._model.windows(item, seconds=window, hop=hop)
            return np.stack([windows.start, windows.end], axis=1), windows.embeddings

        with tqdm(total=len(files), desc="index", unit=" files", disable=self._hidden) as self._bar:
            paths = (str(self._folder / path) for path in self._to_embed(files))
            group = max(GROUP, self._batch_size or 0)
            for path, result in over_files(paths, embed_clips, embed_long, rate, window, group):
                self._embedded(os.path.relpath(path, self._folder), result)
                self._writer.commit_if_due()
                self._bar.update()
            for path, original in self._copies:
                if self._states[path].content in self._writer.contents:
                    self._known(path, self._states[path])
                else:
                    reason = f"has the same bytes as {self._folder / original}, which was left out"
                    self._reject(path, f"{self._folder / path} {reason}")
                self._bar.update()
        return self._update

    def _to_embed(self, files: list[str]) -> Iterator[str]:
        """Yields the files whose contents are not in the index, and settles the others."""
        first: dict[str, str] = {}  # content -> the first file that has it
        for path in files:
            try:
                check_name(str(self._folder / path))
                state = self._read_state(path)
            except AudioError as error:
                self._reject(path, str(error))
            except OSError as error:
                self._reject(path, f"{self._folder / path} cannot be read ({error.strerror}); leave it out")
            else:
                if state == self._writer.files.get(path):
                    self._update.unchanged += 1
                elif state.content in self._writer.contents:
                    self._known(path, state)
                else:
                    self._states[path] = state
                    if state.content in first:
                        self._copies.append((path, first[state.content]))
                    else:
                        first[state.content] = path
                        yield path
                    continue
            self._bar.update()

    def _read_state(self, path: str) -> FileState:
        """Reads the state of a file; opens it only if its size or modification time changed."""
        file = self._folder / path
        stat, known = file.stat(), self._writer.files.get(path)
        if known is not None and (known.size, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return known
        with file.open("rb") as opened:
            # With 128 bits, no two files of a collection share a digest by chance.
            content = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return FileState(stat.st_size, stat.st_mtime_ns, content)

    def _embedded(self, path: str, result: _Embedded | AudioError) -> None:
        state, file = self._states[path], self._folder / path
        if isinstance(result, AudioError):
            self._reject(path, str(result))
            return
        stat = file.stat() if file.exists() else None
        if stat is None or (stat.st_size, stat.st_mtime_ns) != (state.size, state.mtime_ns):
            self._reject(path, f"{file} changed while it was read; run `slap index` again")
            return
        self._writer.add_windows(state.content, *result)
        self._writer.set_file(path, state)
        self._update.embedded += 1

    def _known(self, path: str, state: FileState) -> None:
        self._writer.set_file(path, state)
        self._update.known += 1

    def _reject(self, path: str, reason: str) -> None:
        self._update.bad.append((path, reason))
        if path in self._writer.files:  # with bytes that are gone
            self._remove(path)

    def _remove(self, path: str) -> None:
        self._writer.remove_file(path)
        self._update.removed += 1
