"""The files inside a tar, found by its headers alone."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class ArchiveError(ValueError):
    """A tar that is damaged or broken off."""


def compression(path: Path) -> str:
    """Returns the program that a file was compressed with, "" if it was not."""
    with path.open("rb") as file:
        start = file.read(8)
    return next((program for magic, program in _COMPRESSED.items() if start.startswith(magic)), "")


def tar_members(archive: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Lists the regular files of an uncompressed tar whose bytes are all there.

    Args:
        archive: open at its start; its position may be moved while the members are listed.

    Raises:
        ArchiveError: after the good members, the archive is damaged or broken off.
    """
    size = archive.seek(0, os.SEEK_END)
    archive.seek(0)
    offset = 0
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            while True:
                archive.seek(offset)
                # Iteration over the tar would keep all headers in memory, and end without a word where one is damaged.
                member = tarfile.TarInfo.fromtarfile(tar)
                offset = tar.offset
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > size:
                    raise ArchiveError(f"it is broken off inside {member.name}, after {size} bytes")
                yield member
    except tarfile.TarError as error:
        archive.seek(offset)
        if archive.read(_BLOCK) != bytes(_BLOCK):  # which ends a tar that is not broken off
            raise ArchiveError(f"it is damaged or broken off ({error})") from error
