"""Small copies of datasets in the layouts of their publishers."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import PublishedDataset
from tests.data.tiny_data import encoded, tone


def write_wav(path: Path, seconds: float = 0.1, rate: int = 16_000, container: str = "WAV") -> Path:
    """Writes a tone; `container` may also be FLAC, OGG or MP3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(tone(seconds, rate=rate), rate, container))
    return path


def write_csv(path: Path, rows: Sequence[Sequence[Any]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    """Writes rows, of which the first may be a header, quoting where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return path


def write_json(path: Path, value: Any) -> Path:
    """Writes a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def listed(dataset: PublishedDataset) -> tuple[list[Entry], list[Rejection]]:
    """Returns all entries and all rejections of a dataset."""
    items = list(dataset.entries())
    entries = [item for item in items if isinstance(item, Entry)]
    return entries, [item for item in items if isinstance(item, Rejection)]
