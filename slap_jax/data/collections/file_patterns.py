"""Files named by a pattern: braces as the shell has them ("{000..099}", "{a,b}"), and wildcards ("*")."""

import glob
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from slap_jax.data.collections.entry_fields import CollectionError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SPECIAL = re.compile(r"[{*?\[]")
_MOST_FILES = 1_000_000


def is_pattern(name: str) -> bool:
    """Tells whether a name has braces or wildcards."""
    return _SPECIAL.search(name) is not None


def files_of_pattern(pattern: str) -> list[Path]:
    """Returns the files that a pattern names: braces in their order, wildcards sorted.

    Raises:
        CollectionError: a file that braces name is missing, nothing matches a wildcard, or there are far too many.
    """
    names = list(itertools.islice(expand_braces(pattern), _MOST_FILES + 1))
    if len(names) > _MOST_FILES:
        raise CollectionError(f"{pattern} names more than {_MOST_FILES} files; name their folder instead")
    found: list[Path] = []
    missing: list[str] = []
    for name in names:
        files = sorted(glob.glob(name)) if glob.has_magic(name) else [name]
        present = [Path(file) for file in files if os.path.isfile(file)]
        found.extend(present)
        if not present:
            missing.append(name)
    if missing:
        raise CollectionError(
            f"{pattern} names files of which {len(missing)} are missing, the first of them {missing[0]}; "
            "correct the pattern, or copy them"
        )
    return found


def folder_of_pattern(pattern: str) -> Path:
    """Returns the folder that all files of a pattern are in: what comes before its first special character."""
    special = _SPECIAL.search(pattern)
    return Path(pattern[: special.start()] + "x").parent if special else Path(pattern).parent


def expand_braces(pattern: str) -> Iterator[str]:
    """Expands "a{1..3}b" and "a{x,y}b"; the numbers of a range keep their leading zeros."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    for choice in _choices(braces[1]):
        yield from expand_braces(pattern[: braces.start()] + choice + pattern[braces.end() :])


def _choices(inside: str) -> Iterator[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        yield from inside.split(",")
        return
    first, last = numbers[1], numbers[2]
    width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
    step = 1 if int(first) <= int(last) else -1
    for number in range(int(first), int(last) + step, step):
        yield str(number).zfill(width)
