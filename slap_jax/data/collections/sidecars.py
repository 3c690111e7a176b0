"""The `.json` or `.txt` next to each audio file of a folder, and those that belong to no audio file."""

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from slap_jax.data.audio import AUDIO_SUFFIXES
from slap_jax.data.collections.columns import caption_columns, label_columns
from slap_jax.data.collections.entries import Rejection
from slap_jax.data.collections.fields import FOLDER_SPLITS, LONGEST_TEXT, RejectedClip, caption_lines, parse_object
from slap_jax.data.collections.spelling import fold

_SUFFIXES = (".json", ".txt")  # the first that exists is read
_CACHED_FOLDERS = 8  # a folder and those above it

# Texts that accompany many folders and describe no clip.
_DOCUMENTS = frozenset(
    {
        *("readme", "notes", "license", "licence", "copying", "notice", "changelog", "changes", "authors", "credits"),
        *("attribution", "todo", "citation", "requirements", "robots", "manifest", "metadata", "index", "files"),
        *("filelist", "file_list", "list", "labels", "classes"),
        *FOLDER_SPLITS,
    }
)


class Sidecars:
    """The texts of a folder with audio files, at any depth."""

    def __init__(self, root: Path):
        """Reads nothing.

        Args:
            root: the folder.
        """
        self._root = root
        self._folder = functools.lru_cache(maxsize=_CACHED_FOLDERS)(_Names)

    def read(self, audio: PurePosixPath) -> dict[str, Any]:
        """Reads the fields of the `.json` of an audio file or, if there is none, the captions of its `.txt`.

        Args:
            audio: its path relative to the root.

        Returns:
            Fields of a manifest; none without a sidecar.

        Raises:
            RejectedClip: the sidecar cannot be read, or two have equally similar names.
        """
        folder = self._root / audio.parent
        names = [audio.stem + suffix for suffix in _SUFFIXES]
        for name in names:
            data = _read(folder / name)
            if data is not None:
                return _fields(data, name)
        for name in names:
            similar = self._folder(folder).similar_text(name)
            if len(similar) > 1:
                listed = " and ".join(similar)
                detail = f"there is no {name}, but {listed}, which are equally similar; rename one to {name}"
                raise RejectedClip("ambiguous_name", detail)
            if similar and (data := _read(folder / similar[0])) is not None:
                return _fields(data, similar[0])
        return {}

    def orphan(self, file: PurePosixPath) -> Rejection | None:
        """Returns the rejection of the clip whose sidecar a file is, if it belongs to no audio file.

        Args:
            file: path relative to the root of a file that is not audio.
        """
        if file.suffix.lower() not in _SUFFIXES or file.stem.casefold() in _DOCUMENTS:
            return None
        names = self._folder(self._root / file.parent)
        if names.is_claimed(file.name) or names.is_counted_elsewhere(file.name):
            return None
        if file.suffix.lower() == ".json" and not self._describes_clip(file):
            return None
        where = str(file)
        other = names.other_file(file.stem)
        if other is None:
            detail = f"{file.name} has no audio file next to it; add the audio, or remove the text"
            return Rejection(where, str(file.with_suffix("")), "missing_audio", detail)
        suffix = os.path.splitext(other)[1] or "(none)"
        detail = (
            f"{other} has a caption, but its suffix {suffix} is not one of audio ({', '.join(AUDIO_SUFFIXES)}); rename "
            "or convert the file"
        )
        return Rejection(str(file.with_name(other)), str(file.with_name(other)), "unknown_suffix", detail)

    def _describes_clip(self, file: PurePosixPath) -> bool:
        try:
            data = _read(self._root / file)
            values = json.loads(data) if data is not None and len(data) <= LONGEST_TEXT else None
        except (RejectedClip, ValueError, RecursionError):
            return False
        return isinstance(values, dict) and bool(caption_columns(values) or label_columns(values))


class _Names:
    """The names in one folder, by stem without Unicode form and case."""

    def __init__(self, folder: Path):
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except OSError:
            names = []
        self._names: Mapping[str, list[str]] = {}
        for name in names:
            self._names.setdefault(fold(os.path.splitext(name)[0]), []).append(name)

    def audio(self, stem: str) -> list[str]:
        """Returns the audio files with a stem."""
        return [name for name in self._same_stem(stem) if _suffix(name) in AUDIO_SUFFIXES]

    def similar_text(self, sidecar: str) -> Sequence[str]:
        """Returns the texts similar to a sidecar that is missing, without those that exactly fit another audio file."""
        stem, suffix = os.path.splitext(sidecar)
        taken = {os.path.splitext(name)[0] for name in self.audio(stem)} - {stem}
        return [
            name for name in self._same_stem(stem) if _suffix(name) == suffix and os.path.splitext(name)[0] not in taken
        ]

    def is_claimed(self, text: str) -> bool:
        """Returns whether a text is the sidecar of an audio file, or of the same name as one that is."""
        stem = os.path.splitext(text)[0]
        own = [os.path.splitext(name)[0] for name in self.audio(stem)]
        present = self._same_stem(stem)
        return any(each == stem or not any(each + suffix in present for suffix in _SUFFIXES) for each in own)

    def is_counted_elsewhere(self, text: str) -> bool:
        """Returns whether another text of the same stem stands for the clip: the first .txt, or else the .json."""
        stem = os.path.splitext(text)[0]
        texts = [name for name in self._same_stem(stem) if os.path.splitext(name)[0] == stem]
        lines = [name for name in texts if _suffix(name) == ".txt"]
        objects = [name for name in texts if _suffix(name) == ".json"]
        return text != (lines or objects)[0]

    def other_file(self, stem: str) -> str | None:
        """Returns a file with a stem that is neither audio nor a text."""
        return next(
            (name for name in self._same_stem(stem) if _suffix(name) not in (*_SUFFIXES, *AUDIO_SUFFIXES)), None
        )

    def _same_stem(self, stem: str) -> list[str]:
        return self._names.get(fold(stem), [])


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _read(sidecar: Path) -> bytes | None:
    """Returns the start of a file, a byte more than a sidecar may have; None if there is none."""
    try:
        with sidecar.open("rb") as file:
            return file.read(LONGEST_TEXT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RejectedClip("unreadable_file", f"{sidecar.name} cannot be read: {error.strerror}") from error


def _fields(data: bytes, name: str) -> dict[str, Any]:
    if name.lower().endswith(".json"):
        return parse_object(data, name)
    return {"captions": caption_lines(data, name)}
