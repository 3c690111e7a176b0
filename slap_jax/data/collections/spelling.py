"""Names that look equal: a file system may store another Unicode form or case than a manifest states.

A Mac stores "Ü" as two characters (NFD), most keyboards type one (NFC). Windows does not distinguish "dog.WAV" from
"dog.wav". Neither is a reason to lose a clip.
"""

import functools
import os
import unicodedata
from pathlib import Path

import numpy as np
from jaxtyping import UInt64

from slap_jax.data.index import hash_bytes

_CACHED_FOLDERS = 16


class AmbiguousNameError(Exception):
    """Several files have names that differ from the stated one only in Unicode form or case."""


def fold(name: str) -> str:
    """Returns the form of a name that its spellings share: NFC without case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def find_spelling(root: str, relative: str) -> str | None:
    """Finds a file whose path differs from the stated one only in Unicode form or case.

    Args:
        root: folder that exists.
        relative: path below it that names no file.

    Returns:
        The path of the file, None if there is none.

    Raises:
        AmbiguousNameError: several names fit.
    """
    path = root
    for name in relative.split(os.sep):
        exact = os.path.join(path, name)
        if os.path.lexists(exact):
            path = exact
            continue
        names = _spellings(path, name)
        if not names:
            return None
        if len(names) > 1:
            raise AmbiguousNameError(" and ".join(repr(each) for each in names))
        path = os.path.join(path, names[0])
    return path if os.path.isfile(path) else None


def _spellings(folder: str, name: str) -> list[str]:
    """Returns the names in a folder that fold to the same as a name, sorted."""
    try:
        version = Path(folder).stat().st_mtime_ns
        hashes = _folded_names(folder, version)
        folded = fold(name)
        key = _hash(folded)
        position = int(np.searchsorted(hashes, key))
        if position == len(hashes) or hashes[position] != key:
            return []
        return sorted(each for each in os.listdir(folder) if fold(each) == folded)
    except (OSError, ValueError):
        return []


@functools.lru_cache(maxsize=_CACHED_FOLDERS)
def _folded_names(folder: str, version: int) -> UInt64[np.ndarray, " n"]:
    """Returns the sorted hashes of the folded names in a folder: 8 bytes a file, for folders of millions.

    Args:
        folder: the folder.
        version: its modification time, so that a changed folder is read again.
    """
    with os.scandir(folder) as listing:
        return np.sort(np.fromiter((_hash(fold(each.name)) for each in listing), np.uint64))


def _hash(text: str) -> np.uint64:
    return np.uint64(hash_bytes(text.encode("utf-8", "surrogateescape")))
