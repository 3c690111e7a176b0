"""Readers shared by the published datasets: tables, JSON, audio folders, options, labels and licences."""

import csv
import dataclasses
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slap_jax.data.audio import AUDIO_SUFFIXES
from slap_jax.data.collections.entries import AudioFile, Entry, Rejection
from slap_jax.data.collections.git_lfs import describe_pointer, is_pointer
from slap_jax.data.collections.published import Expected, LayoutError, PublishedDataset

NOTHING = "none"  # an option that selects no part
_BLOCK = 1 << 20  # characters
_LICENCE = re.compile(r"creativecommons\.org/licenses/([a-z+-]+)(?:/(\d\.\d))?", re.IGNORECASE)
_WAIVER = re.compile(r"creativecommons\.org/publicdomain/zero/(\d\.\d)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One line of a table.

    Attributes:
        where: file and line number.
        fields: column -> text exactly as in the file, including spaces.
    """

    where: str
    fields: dict[str, str]


def read_table(
    path: Path,
    columns: Sequence[str],
    *,
    delimiter: str = ",",
    encoding: str = "utf-8-sig",
    header: bool = True,
    comment: str = "",
    spaces: bool = True,
) -> Iterator[TableRow | Rejection]:
    """Streams the rows of a CSV or TSV file.

    Args:
        path: the file.
        columns: required columns; without a header line, the names of all columns in order.
        delimiter: separates the fields.
        encoding: encoding of the file.
        header: whether the first line names the columns.
        comment: prefix of lines to skip; "" for none.
        spaces: whether a space after a delimiter belongs to the field.

    Yields:
        The rows in order. A row with more or fewer fields than the header becomes a rejection: an unquoted comma in a
        caption, for example, leaves the fields ambiguous.

    Raises:
        LayoutError: a required column is missing, or the file is not a table in this encoding.
    """
    refuse_pointer(path)
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=not spaces)
        try:
            names = next(reader, []) if header else list(columns)
            missing = [column for column in columns if column not in names]
            if missing:
                raise LayoutError(
                    f"{path} has no column {missing[0]!r} among {', '.join(names) or 'none at all'}; "
                    f"expected {', '.join(columns)}: use the file as published"
                )
            for cells in reader:
                where = f"{path.name}:{reader.line_num}"
                if not cells or (comment and cells[0].startswith(comment)):
                    continue
                if len(cells) == len(names):
                    yield TableRow(where, dict(zip(names, cells, strict=True)))
                else:
                    detail = f"the line has {len(cells)} fields; expected {len(names)}, with quotes around commas"
                    yield Rejection(where, cells[0], "bad_row", detail)
        except UnicodeDecodeError as error:
            raise LayoutError(
                f"{path} is not {encoding} text (byte {error.object[error.start]:#04x}); use the file as published"
            ) from error
        except csv.Error as error:
            raise LayoutError(f"{path}, line {reader.line_num}, is not a table ({error}); download it again") from error


def require_rows(path: Path, rows: Iterable[TableRow | Rejection]) -> Iterator[TableRow]:
    """Yields the rows of `read_table` for a file in which every row must be require_rows.

    Raises:
        LayoutError: a row is broken.
    """
    for row in rows:
        if isinstance(row, Rejection):
            raise LayoutError(f"{path.parent / row.where} is broken: {row.detail}")
        yield row


def read_grouped_table(
    path: Path, key: str, columns: Sequence[str], *, delimiter: str = ",", encoding: str = "utf-8-sig"
) -> dict[str, list[dict[str, str]]]:
    """Reads a table of details about clips that another table lists.

    Args:
        path: the file.
        key: column with the name of the clip.
        columns: the other required columns.
        delimiter: separates the fields.
        encoding: encoding of the file.

    Returns:
        Value of `key` -> the fields of its rows, in order.

    Raises:
        LayoutError: as `read_table`, or a row is broken.
    """
    groups: dict[str, list[dict[str, str]]] = {}
    for row in require_rows(path, read_table(path, (key, *columns), delimiter=delimiter, encoding=encoding)):
        groups.setdefault(row.fields[key], []).append(row.fields)
    return groups


def parse_number(row: TableRow, column: str) -> float:
    """Parses a numeric field.

    Raises:
        LayoutError: the field is not a number.
    """
    try:
        return float(row.fields[column])
    except ValueError as error:
        raise LayoutError(
            f"{row.where}: {column} is {row.fields[column]!r}, not a number; use the file as published"
        ) from error


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (file and line number, text) for each non-empty line of a list.

    Raises:
        LayoutError: the file is not UTF-8 text.
    """
    refuse_pointer(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line_number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path.name}:{line_number}", line.strip()
    except UnicodeDecodeError as error:
        raise _not_text(path) from error


def read_json_objects(path: Path) -> dict[str, dict[str, Any]]:
    """Reads a JSON file that holds one object per clip, keyed by clip.

    Raises:
        LayoutError: the file has another form.
    """
    refuse_pointer(path)
    try:
        objects = json.loads(path.read_bytes())
    except ValueError as error:
        raise LayoutError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(objects, dict) or not all(isinstance(fields, dict) for fields in objects.values()):
        raise LayoutError(f'{path} is not of the form {{"clip": {{...}}, ...}}; download it again')
    return objects


def read_json_list(path: Path, key: str) -> Iterator[Any]:
    """Streams the items of the list `key` of a JSON object, holding one block of text at a time.

    Args:
        path: UTF-8 file of the form {..., "key": [item, item, ...], ...}.
        key: key of the list; it must be in the first block, and not be nested in what precedes it.

    Raises:
        LayoutError: the file is not JSON, has no such list, is truncated, or is a Git LFS pointer.
    """
    refuse_pointer(path)
    decoder = json.JSONDecoder()
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_BLOCK)
            start = re.search(rf'"{re.escape(key)}"\s*:\s*\[', text)
            if start is None:
                raise LayoutError(f'{path} has no list {key!r}; expected {{"{key}": [...]}} as published')
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
                        raise LayoutError(
                            f"{path} is truncated or not JSON ({error.msg}); download it again"
                        ) from error
                    text, position = text[position:] + block, 0
                else:
                    yield item
    except UnicodeDecodeError as error:
        raise _not_text(path) from error


def refuse_pointer(path: Path) -> None:
    """Raises `LayoutError` if a file is a Git LFS pointer."""
    with path.open("rb") as file:
        start = file.read(512)
    if is_pointer(start):
        raise LayoutError(f"{path} {describe_pointer(start)}")


def _not_text(path: Path) -> LayoutError:
    return LayoutError(f"{path} is not UTF-8 text; download it again")


class AudioFileIndex:
    """The audio files directly inside some folders, listed once so that lookups need no disk access."""

    def __init__(self, folders: Sequence[Path]):
        """Lists the folders.

        Args:
            folders: folders in order of preference; folders that do not exist are skipped.
        """
        # Stem -> folder and suffix. Millions of files share these pairs: 160 bytes a file instead of 600 for a path.
        self._files: dict[str, tuple[Path, str]] = {}
        # Normalised stem -> stem, for the few that differ; None if two files share the normalised stem.
        self._normalised: dict[str, str | None] = {}
        for folder in folders:
            names = sorted(os.listdir(folder), key=_by_preference) if folder.is_dir() else []
            locations: dict[str, tuple[Path, str]] = {}
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in AUDIO_SUFFIXES and stem not in self._files:
                    self._files[stem] = locations.setdefault(suffix, (folder, suffix))
                    if (normalised := _normalise(stem)) != stem:
                        self._normalised[normalised] = None if normalised in self._normalised else stem

    def __len__(self) -> int:
        return len(self._files)

    def find(self, *stems: str) -> Path | None:
        """Returns the file of the first stem that exists, or None.

        If no stem exists as written, they are compared again with spaces, colons and Unicode forms normalised, because
        archive programs and file systems change these. A normalised name that fits two files matches neither.

        Args:
            *stems: file names without suffix, in order of preference.
        """
        match = next((stem for stem in stems if stem in self._files), None)
        if match is None:
            match = next((similar for stem in stems if (similar := self._find_normalised(stem))), None)
        if match is None:
            return None
        folder, suffix = self._files[match]
        return folder / f"{match}{suffix}"

    def _find_normalised(self, stem: str) -> str | None:
        normalised = _normalise(stem)
        if normalised in self._files:
            return None if normalised in self._normalised else normalised
        return self._normalised.get(normalised)


def list_audio(folder: Path) -> list[Path]:
    """Lists the audio files directly inside a folder by name, without hidden ones such as the `._` files of macOS."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [
        folder / name
        for name in names
        if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
    ]


def walk_folders(root: Path) -> list[Path]:
    """Lists a folder and all folders below it by name, following links; each folder appears once, even in link loops.

    Raises:
        LayoutError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise LayoutError(f"{error.filename} cannot be read ({error.strerror}); change its permissions")

    folders: list[Path] = []
    seen: set[str] = set()
    for folder, children, _ in os.walk(root, onerror=fail, followlinks=True):
        children[:] = sorted(child for child in children if not child.startswith("."))
        real = os.path.realpath(folder)
        if real in seen:
            children.clear()
        else:
            seen.add(real)
            folders.append(Path(folder))
    return folders


def parse_selection(dataset: PublishedDataset, option: str, known: Sequence[str]) -> tuple[str, ...]:
    """Returns the parts that an option selects.

    Args:
        dataset: its option is set to names joined by "+", or to "none".
        option: name of the option.
        known: allowed names; the result keeps this order.

    Raises:
        LayoutError: a name is not allowed.
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


def selected_splits(dataset: PublishedDataset) -> Mapping[str, Expected]:
    """Returns the splits to read with their published sizes: those of the option `splits`, or all without one."""
    if "splits" not in dataset.options:
        return dataset.expected
    return {split: dataset.expected[split] for split in parse_selection(dataset, "splits", tuple(dataset.expected))}


def label(key: str, value: str) -> str:
    """Formats a label as "key=value" with underscores as spaces, such as "label=sea waves" for "sea_waves"."""
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
    """Builds the entry of a clip that has labels but no captions.

    Args:
        dataset: dataset of the clip.
        audio: its file, or None if it is missing.
        id: unique within the dataset.
        split: one of `dataset.expected`.
        labels: formatted by `label`, the class first.
        where: file and line, for messages.
        regions: (onset s, offset s, caption).
        licence: licence of this clip; defaults to the licence of the dataset.

    Returns:
        The entry; a rejection if the audio is missing, the split is unknown or there is no class.
    """
    if split not in dataset.expected:
        detail = f"the split is {split!r}; expected one of {', '.join(dataset.expected)}"
        return Rejection(where, id, "bad_field", detail)
    if not labels or any(text.endswith("=") for text in labels):
        return Rejection(where, id, "missing_label", f"the labels are {list(labels)}; expected a class")
    if audio is None:
        return Rejection(where, id, "missing_file", f"{id} has no audio file; add it, or leave the clip out")
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


def licence_name(text: str) -> str:
    """Returns an SPDX-like name such as "CC-BY-4.0" for the URL of a Creative Commons licence; other text unchanged."""
    if waiver := _WAIVER.search(text):
        return f"CC0-{waiver.group(1)}"
    if licence := _LICENCE.search(text):
        kind, version = licence.groups()
        return "-".join(part for part in ("CC", kind.upper(), version) if part)
    return text.strip()


def _by_preference(name: str) -> tuple[int, str]:
    suffix = os.path.splitext(name)[1].lower()
    return AUDIO_SUFFIXES.index(suffix) if suffix in AUDIO_SUFFIXES else len(AUDIO_SUFFIXES), name


def _normalise(stem: str) -> str:
    return unicodedata.normalize("NFC", " ".join(stem.replace(":", "_").split()))
