"""Tars as the `webdataset` package writes them."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.data.tiny_data import encoded, tone

FLAC = encoded(tone(0.1), container="FLAC")


def write_tar(path: Path, members: Iterable[tuple[str, Any]]) -> Path:
    """Writes (name, contents) in order; contents that are not bytes become JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, contents in members:
            data = contents if isinstance(contents, bytes) else json.dumps(contents).encode()
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def sample(key: str, text: str = "a tone", audio: bytes = FLAC) -> list[tuple[str, Any]]:
    """Returns the members of one sample in LAION's layout."""
    return [(f"{key}.flac", audio), (f"{key}.json", {"text": [text]})]
