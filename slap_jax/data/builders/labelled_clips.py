"""What the readers of data sets with labels, and without captions, have in common."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slap_jax.data.audio import AUDIO_SUFFIXES
from slap_jax.data.builders.published import LayoutError, PublishedDataset
from slap_jax.data.builders.tables import Row
from slap_jax.data.collections.entries import AudioFile, Entry, Rejection


def label(key: str, value: str) -> str:
    """Returns "key=value" with the value in words: "label=sea waves" of "sea_waves"."""
    return f"{key}={' '.join(value.replace('_', ' ').split())}"


def labelled_clip(
    dataset: PublishedDataset,
    audio: Path | None,
    *,
    id: str,
    split: str,
    labels: Sequence[str],
    where: str,
    regions: Sequence[tuple[float, float, str]] = (),
    licence: str = "",
) -> Entry | Rejection:
    """Returns the entry of a clip that its publisher describes by labels only.

    Args:
        dataset: that the clip belongs to.
        audio: its file, None where it is missing.
        id: unique within the data set.
        split: one of `dataset.expected`.
        labels: as `label` makes them, the class first.
        where: file and line, for messages.
        regions: (onset s, offset s, caption).
        licence: of this clip; that of the data set by default.

    Returns:
        A rejection where the audio is missing, or where the publisher's files name another split or no class.
    """
    if split not in dataset.expected:
        detail = f"the split is {split!r}; expected one of {', '.join(dataset.expected)}"
        return Rejection(where, id, "bad_field", detail)
    if not labels or any(text.endswith("=") for text in labels):
        return Rejection(where, id, "missing_label", f"the labels are {list(labels)}; expected a class")
    if audio is None:
        return Rejection(where, id, "missing_file", f"no audio file of {id} is there; add it, or leave the clip out")
    return Entry(
        id=id,
        audio=AudioFile(audio),
        captions=(),
        split=split,
        labels=tuple(labels),
        regions=tuple(regions),
        source=dataset.name,
        licence=licence or dataset.licence,
        where=where,
    )


def number(row: Row, column: str) -> float:
    """Returns a number in a table.

    Raises:
        LayoutError: something else stands there.
    """
    try:
        return float(row.fields[column])
    except ValueError as error:
        raise LayoutError(
            f"{row.where}: {column} is {row.fields[column]!r}, not a number; take the file as its publisher offers it"
        ) from error


def audio_in(folder: Path) -> list[Path]:
    """Lists the audio files that lie directly in a folder, by name, without hidden ones such as the `._` of macOS."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [
        folder / name
        for name in names
        if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
    ]


def folders_below(root: Path) -> list[Path]:
    """Lists a folder and all that are below it, by name; each once, however many links lead to it, or in a loop.

    Raises:
        LayoutError: one cannot be read.
    """

    def fail(error: OSError) -> None:
        raise LayoutError(f"{error.filename} cannot be read ({error.strerror}); change its permissions")

    found: list[Path] = []
    seen: set[str] = set()
    for folder, children, _ in os.walk(root, onerror=fail, followlinks=True):
        children[:] = sorted(child for child in children if not child.startswith("."))
        real = os.path.realpath(folder)
        if real in seen:
            children.clear()
        else:
            seen.add(real)
            found.append(Path(folder))
    return found


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Reads a list of names: file and line for messages, and the name, without empty lines."""
    with path.open(encoding="utf-8-sig") as file:
        for line_number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path.name}:{line_number}", line.strip()


def read_objects(path: Path) -> dict[str, dict[str, Any]]:
    """Reads a JSON file with an object for each clip.

    Raises:
        LayoutError: it is something else.
    """
    try:
        objects = json.loads(path.read_bytes())
    except ValueError as error:
        raise LayoutError(f"{path} is no JSON ({error}); get it again from its publisher") from error
    if not isinstance(objects, dict) or not all(isinstance(fields, dict) for fields in objects.values()):
        raise LayoutError(f'{path} is not of the form {{"clip": {{...}}, ...}}; get it again from its publisher')
    return objects
