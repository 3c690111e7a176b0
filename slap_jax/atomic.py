"""Atomic file writes: a file is either complete or absent, however the program ends.

Every writer of the project goes through this module. A file is written under a temporary name in its own folder, synced
to disk, and renamed to its final name.
"""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

# Suffix of the temporary files. A killed program leaves them behind; they are safe to delete.
PARTIAL_SUFFIX = ".part"


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path and renames it to `path` if the block succeeds; an error leaves `path` as it was.

    Several processes, even on several machines that share the folder, may write the same file at the same time: each
    has its own temporary file, and the last rename wins.

    Args:
        path: the file to create or replace. Its folder must exist.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        yield partial
        _sync(partial)  # the name must not survive a power failure without the contents
        partial.replace(path)
        with contextlib.suppress(OSError):  # some network file systems cannot sync a folder
            _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a binary file atomically."""
    with atomic_file(path) as partial:
        partial.write_bytes(data)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
