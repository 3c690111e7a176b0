"""Large JSON files with one list of objects, read object by object."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slap_jax.data.builders.published import LayoutError

_BLOCK = 1 << 20  # characters
_LARGE_FILE_POINTER = "version https://git-lfs"


def read_items(path: Path, key: str) -> Iterator[Any]:
    """Reads the list `key` of a JSON object, holding only a block of the text at a time.

    Args:
        path: file of the form {..., "key": [item, item, ...], ...}, UTF-8.
        key: of the list; in the first block, and no key inside what stands before it.

    Yields:
        The objects in order.

    Raises:
        LayoutError: not JSON, no such list, broken off, or a pointer of Git LFS in the place of the file.
    """
    decoder = json.JSONDecoder()
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_BLOCK)
            if text.startswith(_LARGE_FILE_POINTER):
                raise LayoutError(f"{path} is a pointer of Git LFS, not the file: get it with `git lfs pull`")
            start = re.search(rf'"{re.escape(key)}"\s*:\s*\[', text)
            if start is None:
                raise LayoutError(
                    f'{path} has no list {key!r}; expected {{"{key}": [...]}}, as its publisher offers it'
                )
            position = start.end()
            while True:
                while text[position : position + 1].isspace() or text[position : position + 1] == ",":
                    position += 1
                if text.startswith("]", position):
                    return
                try:
                    item, position = decoder.raw_decode(text, position)
                except json.JSONDecodeError as error:
                    block = file.read(_BLOCK)
                    if not block:
                        raise LayoutError(f"{path} is broken off, or no JSON ({error.msg}): get it again") from error
                    text, position = text[position:] + block, 0
                else:
                    yield item
    except UnicodeDecodeError as error:
        raise LayoutError(f"{path} is not UTF-8 text: get it again") from error
