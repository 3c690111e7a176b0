"""Finding a publisher's audio files, whatever the format that they were kept or converted in."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from slap_jax.data.audio import AUDIO_SUFFIXES


class AudioNames:
    """The audio files that lie directly in some folders, listed once, so that a clip's look-up needs no disk."""

    def __init__(self, folders: Sequence[Path]):
        """Lists the folders.

        Args:
            folders: in the order of preference; those that do not exist are skipped.
        """
        self._paths: dict[str, Path] = {}
        self._loose: dict[str, Path | None] = {}
        for folder in folders:
            names = sorted(os.listdir(folder), key=_preference) if folder.is_dir() else []
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in AUDIO_SUFFIXES and stem not in self._paths:
                    self._paths[stem] = folder / name
                    loose = _loose(stem)
                    self._loose[loose] = None if loose in self._loose else folder / name

    def __len__(self) -> int:
        return len(self._paths)

    def find(self, *stems: str) -> Path | None:
        """Returns the file with the first of some stems that is there.

        A name that is nowhere as written is looked for once more with its spaces and colons made alike, because
        archive programs and file systems change these; never if that fits two files.

        Args:
            *stems: names without their suffix.
        """
        for stem in stems:
            if stem in self._paths:
                return self._paths[stem]
        return next((path for stem in stems if (path := self._loose.get(_loose(stem)))), None)


def _preference(name: str) -> tuple[int, str]:
    suffix = os.path.splitext(name)[1].lower()
    return AUDIO_SUFFIXES.index(suffix) if suffix in AUDIO_SUFFIXES else len(AUDIO_SUFFIXES), name


def _loose(stem: str) -> str:
    return re.sub(r"\s+", " ", stem.replace(":", "_")).strip()
