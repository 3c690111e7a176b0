"""Files that are either complete or not there, however the program ends."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

# Of files that a killed program leaves behind.
PARTIAL_SUFFIX = ".part"


@contextlib.contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """Gives another name to write to, and renames it to `file` when the block ends without an error.

    Several programs, also on several machines that share the folder, may write the same file at once: each writes a
    whole one, and the last stays.

    Args:
        file: to write or to replace; its folder exists.

    Yields:
        A path in the same folder.
    """
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        yield partial
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # a name must not outlive a power failure that the contents do not
        finally:
            os.close(descriptor)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
