"""What the readers of data sets with labels, and without captions, have in common.

Tables (CSV, TSV) of publishers, read line by line.

Large JSON files with one list of objects, read object by object.

What every named data set has: facts about what its publisher offers, and a reader of the files as laid out.

Finding a publisher's audio files, whatever the format that they were kept or converted in.

Options of named data sets that choose parts: "train+val".

Short names of Creative Commons licences, which publishers give as addresses.
"""

import csv
import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slap_jax.data.audio import AUDIO_SUFFIXES
from slap_jax.data.collections.entries import AudioFile, Entry, Rejection
from slap_jax.data.collections.published import Expected, LayoutError, PublishedDataset


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


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        where: file and line.
        fields: column -> text exactly as it stands in the file, spaces included.
    """

    where: str
    fields: dict[str, str]


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


def read_table(
    path: Path,
    columns: Sequence[str],
    *,
    delimiter: str = ",",
    encoding: str = "utf-8-sig",
    header: bool = True,
    comment: str = "",
    spaces: bool = True,
) -> Iterator[Row | Rejection]:
    """Reads a table.

    Args:
        path: file.
        columns: those that must be there, while others are read too; without a header line, all of them in order.
        delimiter: between fields.
        encoding: of the file.
        header: whether the first line names the columns.
        comment: what lines begin with that are no rows; "" where there are none.
        spaces: whether a space after a delimiter belongs to the field.

    Yields:
        The rows in order. A row with more or fewer fields than the header, such as one whose caption holds a comma
        without quotes, is a rejection: its fields cannot be told apart.

    Raises:
        LayoutError: a column is missing, or the file is not a table of this encoding.
    """
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=not spaces)
        try:
            names = next(reader, []) if header else list(columns)
            missing = [column for column in columns if column not in names]
            if missing:
                raise LayoutError(
                    f"{path} has no column {missing[0]!r}, but {', '.join(names) or 'none at all'}; "
                    f"expected {', '.join(columns)}: take the file as its publisher offers it"
                )
            for cells in reader:
                where = f"{path.name}:{reader.line_num}"
                if not cells or (comment and cells[0].startswith(comment)):
                    continue
                if len(cells) == len(names):
                    yield Row(where, dict(zip(names, cells, strict=True)))
                else:
                    detail = f"the line has {len(cells)} fields; expected {len(names)}, with quotes around commas"
                    yield Rejection(where, cells[0], "bad_row", detail)
        except UnicodeDecodeError as error:
            raise LayoutError(
                f"{path} is not {encoding} text (byte {error.object[error.start]:#04x}); "
                "take the file as its publisher offers it"
            ) from error
        except csv.Error as error:
            raise LayoutError(f"{path}, line {reader.line_num}, is not a table ({error}); download it again") from error


def intact(path: Path, rows: Iterable[Row | Rejection]) -> Iterator[Row]:
    """Passes rows on that `read_table` read from a file of which every row is needed.

    Raises:
        LayoutError: a row is broken.
    """
    for row in rows:
        if isinstance(row, Rejection):
            raise LayoutError(f"{path.parent / row.where} is broken: {row.detail}")
        yield row


def group_rows(
    path: Path, key: str, columns: Sequence[str], *, delimiter: str = ",", encoding: str = "utf-8-sig"
) -> dict[str, list[dict[str, str]]]:
    """Reads a table about clips that another table lists.

    Args:
        path: file.
        key: column that names the clip.
        columns: those that must be there beside it.
        delimiter: between fields.
        encoding: of the file.

    Returns:
        Value of `key` -> the fields of its rows, in order.

    Raises:
        LayoutError: as `read_table`, and where a row is broken.
    """
    groups: dict[str, list[dict[str, str]]] = {}
    for row in intact(path, read_table(path, (key, *columns), delimiter=delimiter, encoding=encoding)):
        groups.setdefault(row.fields[key], []).append(row.fields)
    return groups


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


class AudioNames:
    """The audio files that lie directly in some folders, listed once, so that a clip's look-up needs no disk."""

    def __init__(self, folders: Sequence[Path]):
        """Lists the folders.

        Args:
            folders: in the order of preference; those that do not exist are skipped.
        """
        # Stem -> folder and suffix, which millions of files share: 160 bytes a file instead of 600 for a path each.
        self._files: dict[str, tuple[Path, str]] = {}
        # Loose form -> stem, of the few that are spelled otherwise; None if two are.
        self._loose: dict[str, str | None] = {}
        for folder in folders:
            names = sorted(os.listdir(folder), key=_preference) if folder.is_dir() else []
            places: dict[str, tuple[Path, str]] = {}
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in AUDIO_SUFFIXES and stem not in self._files:
                    self._files[stem] = places.setdefault(suffix, (folder, suffix))
                    if (loose := _loose(stem)) != stem:
                        self._loose[loose] = None if loose in self._loose else stem

    def __len__(self) -> int:
        return len(self._files)

    def find(self, *stems: str) -> Path | None:
        """Returns the file with the first of some stems that is there.

        A name that is nowhere as written is looked for once more with its spaces and colons made alike, because
        archive programs and file systems change these; never if that fits two files.

        Args:
            *stems: names without their suffix.
        """
        found = next((stem for stem in stems if stem in self._files), None)
        if found is None:
            found = next((respelled for stem in stems if (respelled := self._respelled(stem))), None)
        if found is None:
            return None
        folder, suffix = self._files[found]
        return folder / f"{found}{suffix}"

    def _respelled(self, stem: str) -> str | None:
        loose = _loose(stem)
        if loose in self._files:
            return None if loose in self._loose else loose
        return self._loose.get(loose)


def _preference(name: str) -> tuple[int, str]:
    suffix = os.path.splitext(name)[1].lower()
    return AUDIO_SUFFIXES.index(suffix) if suffix in AUDIO_SUFFIXES else len(AUDIO_SUFFIXES), name


def _loose(stem: str) -> str:
    return " ".join(stem.replace(":", "_").split())


NOTHING = "none"


def chosen(dataset: PublishedDataset, option: str, known: Sequence[str]) -> tuple[str, ...]:
    """Returns the parts that an option names.

    Args:
        dataset: with the option set to names joined by "+", or to "none".
        option: its name.
        known: names that may be given; the result is in this order.

    Raises:
        LayoutError: another name.
    """
    names = [name.strip() for name in str(dataset.settings[option]).split("+")]
    names = [] if names == [NOTHING] else names
    for name in names:
        if name not in known:
            raise LayoutError(
                f"option {option} of {dataset.name} names {name!r}; expected some of {', '.join(known)} joined by '+', "
                f"or {NOTHING}"
            )
    return tuple(name for name in known if name in names)


def chosen_splits(dataset: PublishedDataset) -> Mapping[str, Expected]:
    """Returns the expected splits that are read: all, or those that the option `splits` names where there is one."""
    if "splits" not in dataset.options:
        return dataset.expected
    return {split: dataset.expected[split] for split in chosen(dataset, "splits", tuple(dataset.expected))}


_LICENCE = re.compile(r"creativecommons\.org/licenses/([a-z+-]+)(?:/(\d\.\d))?", re.IGNORECASE)
_WAIVER = re.compile(r"creativecommons\.org/publicdomain/zero/(\d\.\d)", re.IGNORECASE)


def licence_name(text: str) -> str:
    """Returns the SPDX-like name of a Creative Commons address, such as "CC-BY-4.0"; any other text as it is."""
    if waiver := _WAIVER.search(text):
        return f"CC0-{waiver.group(1)}"
    if licence := _LICENCE.search(text):
        kind, version = licence.groups()
        return "-".join(part for part in ("CC", kind.upper(), version) if part)
    return text.strip()
