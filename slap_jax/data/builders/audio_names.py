"""Finding a publisher's audio files, whatever the format that they were kept or converted in."""

import os
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
        # Stem -> folder and suffix, which millions of files share: 160 bytes a file instead of 600 for a path each.
        self._files: dict[str, tuple[Path, str]] = {}
        # Loose form -> stem, of the few that are spelled otherwise; None if two are.
        self._loose: dict[str, str | None] = {}
        for folder in folders:
            names = sorted(os.listdir(folder), key=_preference) if folder.is_dir() else []
            places: dict[str, tuple[Path, str]] = {}
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in AUDIO_SUFFIXES and stem not in self._files:
                    self._files[stem] = places.setdefault(suffix, (folder, suffix))
                    if (loose := _loose(stem)) != stem:
                        self._loose[loose] = None if loose in self._loose else stem

    def __len__(self) -> int:
        return len(self._files)

    def find(self, *stems: str) -> Path | None:
        """Returns the file with the first of some stems that is there.

        A name that is nowhere as written is looked for once more with its spaces and colons made alike, because
        archive programs and file systems change these; never if that fits two files.

        Args:
            *stems: names without their suffix.
        """
        found = next((stem for stem in stems if stem in self._files), None)
        if found is None:
            found = next((respelled for stem in stems if (respelled := self._respelled(stem))), None)
        if found is None:
            return None
        folder, suffix = self._files[found]
        return folder / f"{found}{suffix}"

    def _respelled(self, stem: str) -> str | None:
        loose = _loose(stem)
        if loose in self._files:
            return None if loose in self._loose else loose
        return self._loose.get(loose)


def _preference(name: str) -> tuple[int, str]:
    suffix = os.path.splitext(name)[1].lower()
    return AUDIO_SUFFIXES.index(suffix) if suffix in AUDIO_SUFFIXES else len(AUDIO_SUFFIXES), name


def _loose(stem: str) -> str:
    return " ".join(stem.replace(":", "_").split())
