"""Folders of audio files, each with its captions in a `.txt` or `.json` file beside it."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from slap_jax.data.audio import AUDIO_SUFFIXES
from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.entry_fields import (
    DEFAULT_SPLIT,
    FOLDER_SPLITS,
    LONGEST_TEXT,
    CollectionError,
    RejectedClip,
    audio_file,
    caption_lines,
    make_entry,
    parse_object,
    some_clips,
)
from slap_jax.data.collections.folder_walk import walk_files


class SidecarFolder:
    """The audio files below a folder, at any depth.

    Attributes:
        name: `source` of clips whose sidecar has none.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = ""):
        """Reads nothing.

        Args:
            folder: with audio files; a first-level folder called like a split ("train", "test" ...) names the split.
            name: of the collection; the folder's by default.

        Raises:
            CollectionError: it is no folder.
        """
        self.root = Path(folder)
        if not self.root.is_dir():
            raise CollectionError(f"{folder} is no folder; expected one with audio files and a .txt or .json each")
        self.name = name or self.root.resolve().name

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the audio files, sorted by name within each folder.

        Raises:
            CollectionError: there are none.
        """
        return some_clips(self._entries(), self.root)

    def _entries(self) -> Iterator[Entry | Rejection]:
        for found in walk_files(self.root):
            if isinstance(found, Rejection):
                yield found
            elif found.suffix.lower() in AUDIO_SUFFIXES:
                yield self._entry(found)

    def _entry(self, relative: PurePosixPath) -> Entry | Rejection:
        where = str(relative)
        first = relative.parts[0]
        split = first if len(relative.parts) > 1 and first in FOLDER_SPLITS else DEFAULT_SPLIT
        try:
            fields = _sidecar_fields(self.root / relative)
            return make_entry(
                fields, audio_file(self.root, where), id=where, split=split, source=self.name, where=where
            )
        except RejectedClip as rejected:
            return rejected.at(where, where)


def _sidecar_fields(audio: Path) -> dict[str, Any]:
    """Reads what stands beside an audio file; a `.json` goes before a `.txt`."""
    for suffix in (".json", ".txt"):
        sidecar = audio.with_suffix(suffix)
        try:
            with sidecar.open("rb") as file:
                data = file.read(LONGEST_TEXT + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RejectedClip("unreadable_file", f"{sidecar.name} cannot be read: {error.strerror}") from error
        if suffix == ".json":
            return parse_object(data, sidecar.name)
        return {"captions": caption_lines(data, sidecar.name)}
    return {}
