"""The files of a folder tree in a stable order, with links followed and their loops noticed."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from slap_jax.data.collections.entries import Rejection


def walk_files(root: Path) -> Iterator[PurePosixPath | Rejection]:
    """Lists the files below a folder, sorted by name within each folder, which is all that is held in memory.

    Links to folders are followed, as data folders are often made of them. Hidden files and folders (".name") are passed
    over. Broken links count as files: whoever opens them says so.

    Args:
        root: the folder.

    Yields:
        Paths relative to `root`; instead of a folder that links to one that it is in, or that cannot be read, a
        rejection.
    """
    yield from _walk(root, PurePosixPath(), ())


def _walk(
    root: Path, relative: PurePosixPath, above: tuple[tuple[int, int], ...]
) -> Iterator[PurePosixPath | Rejection]:
    folder = root / relative
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            yield Rejection(
                str(relative), "", "link_loop", f"{folder} links to a folder that it is in; remove the link"
            )
            return
        with os.scandir(folder) as found:
            entries = sorted((entry.name, _is_folder(entry)) for entry in found)
    except OSError as error:
        yield Rejection(str(relative), "", "unreadable_folder", f"{folder} cannot be listed: {error.strerror}")
        return
    for name, is_folder in entries:
        if name.startswith("."):
            continue
        if is_folder:
            yield from _walk(root, relative / name, (*above, identity))
        else:
            yield relative / name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Follows links; a link to itself is no folder."""
    try:
        return entry.is_dir()
    except OSError:
        return False
