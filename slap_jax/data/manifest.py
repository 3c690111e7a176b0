"""Manifests of captioned clips: JSON lines, CSV, or a folder with a `.txt` or `.json` beside each audio file."""

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from slap_jax.data.entries import AudioFile, Entry, Rejection

DEFAULT_SPLIT = "train"
FOLDER_SPLITS = ("train", "val", "valid", "validation", "dev", "test", "eval")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".oga", ".mp3", ".aif", ".aiff", ".caf", ".au", ".w64")

_SPLIT_NAME = re.compile(r"[A-Za-z]\w*")
_CAPTION_COLUMN = re.compile(r"caption(_\d+)?")


class ManifestError(ValueError):
    """A manifest that cannot be read at all; single bad lines are rejections."""


class _Rejected(Exception):
    """Leaves the reading of one line with a reason and a detail."""


def read_manifest(
    source: str | os.PathLike[str], audio_root: str | os.PathLike[str] | None = None, name: str = ""
) -> tuple[list[Entry], list[Rejection]]:
    """Reads and checks a manifest; the format is told by the name: `.jsonl`, `.csv`, or a folder.

    Args:
        source: the manifest file, or a folder of audio files with sidecars.
        audio_root: what relative paths are relative to, and what no path may leave; the manifest's folder by default.
        name: `source` of clips whose line has none; the name of the manifest's folder by default.

    Returns:
        The good entries in the manifest's order, and the rejected ones.

    Raises:
        ManifestError: missing, empty, not UTF-8, of an unknown kind, or a CSV without the needed columns.
    """
    source = Path(source)
    if source.is_dir():
        root = Path(audio_root or source)
        lines = _folder_lines(source)
    elif not source.is_file():
        raise ManifestError(f"{source} is missing; give a .jsonl or .csv manifest, or a folder of audio files")
    elif source.suffix.lower() in (".jsonl", ".ndjson"):
        root = Path(audio_root or source.parent)
        lines = _json_lines(source)
    elif source.suffix.lower() == ".csv":
        root = Path(audio_root or source.parent)
        lines = _csv_lines(source)
    else:
        raise ManifestError(f"{source} is neither .jsonl, .csv nor a folder; docs/data_format.md shows all three")

    name = name or root.resolve().name
    entries: list[Entry] = []
    rejections: list[Rejection] = []
    seen: dict[tuple[str, str], str] = {}
    for where, fields in lines:
        try:
            entry = _entry(where, fields, root, name)
            first = seen.setdefault((entry.source, entry.id), where)
            if first != where:
                raise _Rejected("duplicate_id", f"id {entry.id!r} was given at {first} already; ids must be unique")
            entries.append(entry)
        except _Rejected as rejected:
            clip_id = str(fields.get("id") or fields.get("path") or "") if isinstance(fields, dict) else ""
            rejections.append(Rejection(where, clip_id, *rejected.args))
    if not entries and not rejections:
        raise ManifestError(f"{source} holds no clips; docs/data_format.md shows what it must hold")
    return entries, rejections


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _json_lines(path: Path) -> Iterable[tuple[str, Any]]:
    # Only "\n" ends a line: captions may hold the other characters that Python's splitlines() takes for line ends.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                yield f"{path.name}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                yield f"{path.name}:{number}", _Rejected("bad_json", f"not JSON: {error.msg} at column {error.colno}")


def _csv_lines(path: Path) -> Iterable[tuple[str, Any]]:
    reader = csv.DictReader(_read_text(path).splitlines(keepends=True))
    columns = reader.fieldnames or []
    caption_columns = [column for column in columns if _CAPTION_COLUMN.fullmatch(column)]
    if "path" not in columns or not caption_columns:
        raise ManifestError(
            f"{path} has columns {', '.join(columns) or '(none)'}; expected at least path and caption "
            "(or caption_1, caption_2, ...)"
        )
    for row in reader:
        fields: dict[str, Any] = {key: value for key, value in row.items() if key is not None and value}
        fields["captions"] = [row[column] for column in caption_columns if row[column]]
        if "labels" in fields:
            fields["labels"] = [label.strip() for label in fields["labels"].split(";") if label.strip()]
        if "duration_s" in fields:
            fields["duration_s"] = _number_or_text(fields["duration_s"])
        for column in (*caption_columns, "regions"):
            fields.pop(column, None)
        yield f"{path.name}:{reader.line_num}", fields


def _folder_lines(folder: Path) -> Iterable[tuple[str, Any]]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() not in AUDIO_SUFFIXES or any(part.startswith(".") for part in relative.parts):
            continue
        fields: dict[str, Any] = {}
        text, sidecar = path.with_suffix(".txt"), path.with_suffix(".json")
        where = relative.as_posix()
        if sidecar.is_file():
            try:
                fields = json.loads(_read_text(sidecar))
            except json.JSONDecodeError as error:
                yield where, _Rejected("bad_json", f"{sidecar.name} is not JSON: {error.msg} at line {error.lineno}")
                continue
            if not isinstance(fields, dict):
                yield where, fields
                continue
        elif text.is_file():
            fields["captions"] = [line for line in _read_text(text).split("\n") if line.strip()]
        if len(relative.parts) > 1 and relative.parts[0] in FOLDER_SPLITS:
            fields.setdefault("split", relative.parts[0])
        yield where, {**fields, "path": where}


def _entry(where: str, fields: Any, root: Path, name: str) -> Entry:
    if isinstance(fields, _Rejected):
        raise fields
    if not isinstance(fields, dict):
        raise _Rejected(
            "bad_field", f"the line holds a {type(fields).__name__}; expected an object with path, captions"
        )
    stated = _text(fields, "path")
    if not stated:
        raise _Rejected("bad_field", "path is missing; expected the path of an audio file")
    path = _inside(root, stated)
    captions = _captions(fields)
    if not path.is_file():
        raise _Rejected("missing_file", f"path {stated!r} names no file in {root}")
    split = _text(fields, "split") or DEFAULT_SPLIT
    if not _SPLIT_NAME.fullmatch(split):
        raise _Rejected("bad_field", f"split is {split!r}; expected letters, digits and underscores, like 'train'")
    return Entry(
        id=_text(fields, "id") or stated,
        audio=AudioFile(path),
        captions=captions,
        split=split,
        labels=_labels(fields.get("labels")),
        regions=_regions(fields.get("regions")),
        source=_text(fields, "source") or _text(fields, "source_package") or name,
        caption_source=_text(fields, "caption_source"),
        licence=_text(fields, "licence") or _text(fields, "license"),
        duration_s=_seconds(fields.get("duration_s"), "duration_s"),
        where=where,
    )


def _inside(root: Path, stated: str) -> Path:
    """Joins without following links, which data folders are often made of, but refuses to climb out."""
    path = Path(os.path.normpath(root / stated))
    if not path.is_relative_to(os.path.normpath(root)):
        raise _Rejected("outside_root", f"path {stated!r} leads out of {root}; set the audio root to a folder above")
    return path


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise _Rejected("bad_field", f"{key} is {value!r}; expected text")
    return str(value).strip()


def _captions(fields: Mapping[str, Any]) -> tuple[str, ...]:
    value = fields.get("captions", fields.get("caption"))
    captions = [value] if isinstance(value, str) else value
    if captions is None:
        raise _Rejected("missing_caption", "there is no caption; expected captions (a list) or caption (text)")
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise _Rejected("bad_field", f"captions is {value!r}; expected a list of texts")
    captions = tuple(caption.strip() for caption in captions if caption.strip())
    if not captions:
        raise _Rejected("empty_caption", "every caption is empty; expected at least one with words")
    return captions


def _labels(value: Any) -> tuple[str, ...]:
    """Reads {"drum": "kick drum"} as ("drum=kick drum",) and keeps a list of texts as it is."""
    if value is None:
        return ()
    if isinstance(value, dict):
        return tuple(
            f"{key}={item}" for key, items in value.items() for item in (items if isinstance(items, list) else [items])
        )
    if isinstance(value, list) and all(isinstance(label, str) for label in value):
        return tuple(value)
    raise _Rejected("bad_field", f"labels is {value!r}; expected an object of texts or a list of texts")


def _regions(value: Any) -> tuple[tuple[float, float, str], ...]:
    """Reads [{"onset_s": 0.5, "offset_s": 1.0, "caption": "a click"}] or [[0.5, 1.0, "a click"]]."""
    if value is None:
        return ()
    regions = []
    try:
        for region in value:
            onset, offset, caption = (
                (region["onset_s"], region["offset_s"], region["caption"]) if isinstance(region, dict) else region
            )
            if not (0 <= float(onset) <= float(offset) < math.inf and isinstance(caption, str)):
                raise ValueError
            regions.append((float(onset), float(offset), caption.strip()))
    except (TypeError, ValueError, KeyError):
        raise _Rejected(
            "bad_field", f"regions is {value!r}; expected a list of onset_s <= offset_s in seconds and caption"
        ) from None
    return tuple(regions)


def _seconds(value: Any, key: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise _Rejected("bad_field", f"{key} is {value!r}; expected a positive number of seconds")
    return float(value)


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
