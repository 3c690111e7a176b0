"""A folder whose permissions are enforced even if the tests run as root."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_NOBODY = 65_534


@contextlib.contextmanager
def unprivileged_folder() -> Iterator[Path]:
    """Yields an empty folder. Inside the context the process owns it and has no root privileges."""
    # Not pytest's tmp_path, whose parent only its owner may enter.
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    try:
        if user == 0:
            os.chown(folder, _NOBODY, -1)
            os.seteuid(_NOBODY)
        yield folder
    finally:
        os.seteuid(user)
        shutil.rmtree(folder)
