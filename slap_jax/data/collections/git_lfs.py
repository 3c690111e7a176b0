"""Git LFS pointers: the few lines of text that a repository holds in place of a large file until `git lfs pull`."""

import re

POINTER = b"version https://git-lfs.github.com/spec/"
_LONGEST_POINTER = 1_024  # bytes, by the specification


def is_pointer(data: bytes) -> bool:
    """Returns whether a file is a pointer, from its first bytes."""
    return data.startswith(POINTER)


def describe_pointer(data: bytes) -> str:
    """Returns what a pointer is, the size of the file that is missing, and what to do.

    Args:
        data: the first bytes of the pointer, at least 512 of them to see the size.
    """
    size = re.search(rb"^size (\d+)$", data[:_LONGEST_POINTER], re.MULTILINE)
    missing = f" of {int(size[1]):,} bytes" if size else ""
    return f"is a Git LFS pointer, not the file{missing}; fetch it with `git lfs pull`"
