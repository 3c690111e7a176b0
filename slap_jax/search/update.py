"""Bringing the index of a folder up to date: only what is new or changed is embedded."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from slap_jax.data.audio import AudioError
from slap_jax.data.collections.entries import Rejection
from slap_jax.inference.audio_input import DecodedFile
from slap_jax.inference.many_files import NoInputError, audio_files, check_name, over_files
from slap_jax.search.index import INDEX_FOLDER, MANIFEST, Contents, FileState, Manifest, SearchError, file_entry
from slap_jax.search.search import EmbeddingModel
from slap_jax.search.writer import IndexWriter, only_writer, pack_anew

_WINDOW_SECONDS = 10.0
# An update that is killed loses the work on at most this many files, or on one file with more windows than that.
_COMMIT_FILES = 16
_COMMIT_ROWS = 256
# Data is packed anew when more than half of it is of files that are gone; below this size it is not worth the while.
_SMALLEST_PACKED = 4_096

_Embedded = tuple[Float[np.ndarray, "w 2"], Float[np.ndarray, "w E"]]


@dataclasses.dataclass
class Update:
    """What an update did.

    Attributes:
        index: its folder.
        unchanged: files of which size and time of change were as before.
        known: files whose bytes the index had already: moved, copied, or only touched.
        embedded: files that the model listened to.
        removed: files that are gone or have become bad.
        windows: vectors of all files in the index.
        bad: path and what is wrong, of files and folders that were left out.
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
        """How many files the index has."""
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
) -> Update:
    """Indexes the audio files below a folder, or brings their index up to date.

    The process may be killed at any moment: the index stays readable, and what was finished stays in it.

    Args:
        model: to embed with.
        folder: of recordings; hidden files and folders are passed over.
        index: where the index lies; in the folder itself (`.slap_index`) by default.
        window_seconds: longer recordings are cut into windows of this length, shorter ones are one window; None for
            what the index has, 10 for a new one.
        hop_seconds: from the start of a window to that of the next; None for what the index has, else half a window.
        number_type: of the stored vectors, "float32" or, for half the size, "float16"; None for what the index has,
            else "float32".
        rebuild: start anew, whatever is there.
        approximate: also keep the graph that an approximate search needs.
        progress: whether to show a bar; None to show it on a terminal.

    Raises:
        NoInputError: the folder holds no audio file; an index that is there stays as it is.
        SearchError: the index is of another model, other windows or another folder, or is being written to.
    """
    if not folder.is_dir():
        raise NoInputError(f"{folder} is not a folder; give one with recordings")
    if index is None or index.resolve() == (folder / INDEX_FOLDER).resolve():
        index, root = folder / INDEX_FOLDER, ".."
    else:
        root = str(folder.resolve())
    bad = []
    files = []
    for found in audio_files(folder):
        if isinstance(found, Rejection):
            bad.append((found.where, found.detail))
        else:
            files.append(found)
    if not files:
        raise NoInputError(f"{folder} holds no audio files (hidden ones aside); the index was left as it was")
    with only_writer(index):
        settings = (window_seconds, hop_seconds, number_type, root)
        is_new = rebuild or not (index / MANIFEST).is_file()
        if not is_new:
            _check_same(index, model, *settings)
        writer = IndexWriter(index, _new_manifest(model, *settings) if is_new else None)
        try:
            update = _Updating(model, folder, writer, Update(str(index), bad=bad), progress).run(files)
        finally:
            writer.close()
        live = writer.contents.live_rows()
        if writer.manifest.rows > max(_SMALLEST_PACKED, 2 * live):
            pack_anew(index)
        if approximate or writer.manifest.approximate_rows:
            from slap_jax.search.search import build_graph

            build_graph(index, progress)
    update.windows = live
    return update


class _Updating:
    """One update, file by file."""

    def __init__(self, model: EmbeddingModel, folder: Path, writer: IndexWriter, update: Update, progress: bool | None):
        self._model, self._folder, self._writer, self._update = model, folder, writer, update
        self._contents: Contents = writer.contents
        self._uncommitted = 0
        self._hidden = None if progress is None else not progress
        self._states: dict[str, FileState] = {}  # of the files that are being embedded
        self._twins: list[tuple[str, str]] = []  # files, each with one of these that has the same bytes

    def run(self, files: list[str]) -> Update:
        unread = tuple(f"{path}/" for path, _ in self._update.bad)  # what lies there is not known to be gone
        for path in sorted({*self._contents.files} - {*files}):
            if not path.startswith(unread):
                self._drop(path)
        rate, window, hop = self._model.config.audio.sample_rate, *self._windows()

        def of_clips(clips: list[DecodedFile]) -> list[_Embedded]:
            vectors = self._model.embed_audio(clips)
            return [
                (np.array([[0.0, len(clip.samples) / rate]]), vector[None])
                for clip, vector in zip(clips, vectors, strict=True)
            ]

        def of_long(item: Any) -> _Embedded:
            found = self._model.windows(item, seconds=window, hop=hop)
            return np.stack([found.start, found.end], axis=1), found.embeddings

        with tqdm(total=len(files), desc="index", unit=" files", disable=self._hidden) as self._bar:
            chosen = (str(self._folder / path) for path in self._new_files(files))
            for full, result in over_files(chosen, of_clips, of_long, rate, window, skip_silent=True):
                self._finish(os.path.relpath(full, self._folder), result)
                self._bar.update()
            for path, other in self._twins:
                if self._states[path].content in self._contents.rows:
                    self._refer(path, self._states[path])
                else:
                    reason = f"holds the same bytes as {self._folder / other}, which was left out"
                    self._reject(path, f"{self._folder / path} {reason}")
                self._bar.update()
        self._writer.commit()
        return self._update

    def _windows(self) -> tuple[float, float]:
        return self._writer.manifest.window_seconds, self._writer.manifest.hop_seconds

    def _new_files(self, files: list[str]) -> Iterator[str]:
        """Yields the files whose contents have to be embedded; the others are done on the way."""
        coming: dict[str, str] = {}  # content -> the first file that has it
        for path in files:
            try:
                check_name(str(self._folder / path))  # its twins may have good names, so it must not stand for them
                state = self._changed_state(path)
            except AudioError as error:
                self._reject(path, str(error))
                state = None
            except OSError as error:
                self._reject(path, f"{self._folder / path} cannot be read ({error.strerror}); leave it out")
                state = None
            if state is not None:
                self._states[path] = state
                if state.content in coming:
                    self._twins.append((path, coming[state.content]))
                    continue
                if state.content not in self._contents.rows:
                    coming[state.content] = path
                    yield path
                    continue
                self._refer(path, state)
            self._bar.update()

    def _changed_state(self, path: str) -> FileState | None:
        """Reads what a file holds now; None if it is as it was."""
        file = self._folder / path
        before, known = file.stat(), self._contents.files.get(path)
        if known is not None and (known.size, known.mtime_ns) == (before.st_size, before.st_mtime_ns):
            self._update.unchanged += 1
            return None
        with file.open("rb") as opened:
            # 128 bits: no two files of a collection share them by chance.
            content = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return FileState(before.st_size, before.st_mtime_ns, content)

    def _finish(self, path: str, result: _Embedded | AudioError) -> None:
        state, file = self._states[path], self._folder / path
        if isinstance(result, AudioError):
            self._reject(path, str(result))
            return
        now = file.stat() if file.exists() else None
        if now is None or (now.st_size, now.st_mtime_ns) != (state.size, state.mtime_ns):
            self._reject(path, f"{file} was changed while it was read; run `slap index` again")
            return
        times, vectors = result
        self._writer.add_content(state.content, times, vectors)
        self._writer.note(file_entry(path, state))
        self._update.embedded += 1
        self._count(1 + len(vectors) * _COMMIT_FILES // _COMMIT_ROWS)

    def _refer(self, path: str, state: FileState) -> None:
        """Notes a file whose contents need no embedding."""
        self._writer.note(file_entry(path, state))
        self._update.known += 1
        self._count(0)

    def _reject(self, path: str, reason: str) -> None:
        self._update.bad.append((path, reason))
        if path in self._contents.files:  # what the index has of it is of bytes that are gone
            self._drop(path)

    def _drop(self, path: str) -> None:
        self._writer.note({"path": path})
        self._update.removed += 1

    def _count(self, work: int) -> None:
        self._uncommitted += work
        if self._uncommitted >= _COMMIT_FILES:
            self._writer.commit()
            self._uncommitted = 0


def _new_manifest(
    model: EmbeddingModel, window_seconds: float | None, hop_seconds: float | None, number_type: str | None, root: str
) -> Manifest:
    seconds = _WINDOW_SECONDS if window_seconds is None else float(window_seconds)
    hop = seconds / 2 if hop_seconds is None else float(hop_seconds)
    manifest = Manifest(model.model_id, model.embed_dim, number_type or "float32", seconds, hop, root)
    manifest.check_settings()
    return manifest


def _check_same(
    index: Path,
    model: EmbeddingModel,
    window_seconds: float | None,
    hop_seconds: float | None,
    number_type: str | None,
    root: str,
) -> None:
    """Refuses to mix what cannot be compared."""
    present = Manifest.read(index)
    present.check_model(index, model.model_id, model.embed_dim)
    for name, have, want in (
        ("window_seconds", present.window_seconds, window_seconds),
        ("hop_seconds", present.hop_seconds, hop_seconds),
        ("number_type", present.number_type, number_type),
        ("folder", present.root, root),
    ):
        if want is not None and want != have:
            raise SearchError(
                f"{index} has {name} {have}, asked for is {want}: leave that as it was, make the index anew with "
                "--rebuild, or make another with --index"
            )
