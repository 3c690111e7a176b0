"""Opens any collection of clips; what kind it is, is told by what is there."""

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slap_jax.data.audio import AUDIO_SUFFIXES
from slap_jax.data.collections.entries import Collection, Rejection
from slap_jax.data.collections.fields import CollectionError
from slap_jax.data.collections.folders import FILE_COLUMN, METADATA_FILES, AudioFolder, SidecarFolder, walk_files
from slap_jax.data.collections.huggingface import SPLITS_FILE, STATE_FILE, HuggingFaceTables
from slap_jax.data.collections.manifest import JSON_LINES_SUFFIXES, Manifest, csv_header
from slap_jax.data.collections.table_files import TABLE_SUFFIXES
from slap_jax.data.collections.webdataset import WebDataset, is_pattern, is_tar

KINDS: Mapping[str, Callable[..., Collection]] = {
    "manifest": Manifest,
    "folder": SidecarFolder,
    "webdataset": WebDataset,
    "huggingface": HuggingFaceTables,
    "audiofolder": AudioFolder,
}

_EXPECTED = """expected one of
  clips.jsonl or clips.csv      a manifest
  a folder                      of audio files with a .txt or .json beside each
  a folder, a .tar, a pattern   WebDataset tars, like "shards/{000..099}.tar"
  a folder or a .parquet        Hugging Face tables, or what save_to_disk() wrote
  a folder with metadata.csv    or metadata.jsonl, whose file_name names audio files (audiofolder)
docs/collections.md shows them"""


def open_collection(
    source: str | os.PathLike[str],
    *,
    audio_root: str | os.PathLike[str] | None = None,
    name: str = "",
    kind: str = "",
    **options: Any,
) -> Collection:
    """Opens a collection; reads no clip yet.

    Args:
        source: a file, a folder, or a pattern of tars.
        audio_root: what the paths in a manifest or in a table are relative to; where these are, by default.
        name: of the collection; the folder's by default.
        kind: key of `KINDS`; told by what is there by default.
        **options: of the kind's class; empty ones count as not given, and columns may be joined: "title+text".

    Raises:
        CollectionError: none of the kinds or several, or an option that the kind does not have.
    """
    kind = kind or kind_of(source)
    if kind not in KINDS:
        raise CollectionError(f"{kind!r} is no kind of collection; expected {', '.join(KINDS)}")
    given = {"audio_root": audio_root, "name": name, **options}
    given = {
        option: value.split("+") if option.endswith("_columns") and isinstance(value, str) else value
        for option, value in given.items()
        if value
    }
    known = [option for option in inspect.signature(KINDS[kind]).parameters][1:]
    unknown = [option for option in given if option not in known]
    if unknown:
        raise CollectionError(f"{source} is read as {kind}, which has no {unknown[0]}; it has {', '.join(known)}")
    return KINDS[kind](source, **given)


def kind_of(source: str | os.PathLike[str]) -> str:
    """Tells the kind of a collection: by the name of a file, by the files of a folder.

    Raises:
        CollectionError: none of the kinds, or several.
    """
    path = Path(source)
    if path.is_dir():
        return _kind_of_folder(path)
    suffix = path.suffix.lower()
    if is_tar(path.name):
        return "webdataset"
    if not path.is_file():
        found = "matches nothing" if is_pattern(os.fspath(source)) else "is missing"
        raise CollectionError(f"{source} {found}; give a manifest, a folder, tars or tables (docs/collections.md)")
    if suffix in (*JSON_LINES_SUFFIXES, ".csv"):
        return "manifest"
    if suffix in TABLE_SUFFIXES:
        return "huggingface"
    raise CollectionError(f"{source} is no collection that slap reads; {_EXPECTED}")


def _kind_of_folder(folder: Path) -> str:
    if (folder / SPLITS_FILE).is_file() or (folder / STATE_FILE).is_file():
        return "huggingface"
    examples: dict[str, str] = {}
    for found in walk_files(folder):
        if isinstance(found, Rejection):
            continue
        suffix = found.suffix.lower()
        if suffix in AUDIO_SUFFIXES:
            examples.setdefault("folder", str(found))
        elif is_tar(found.name):
            examples.setdefault("webdataset", str(found))
        elif suffix in TABLE_SUFFIXES:
            examples.setdefault("huggingface", str(found))
        elif found.name in METADATA_FILES and (suffix != ".csv" or FILE_COLUMN in csv_header(folder / found)):
            examples.setdefault("audiofolder", str(found))
    if "audiofolder" in examples:
        examples.pop("folder", None)  # the audio files that the metadata name
    if len(examples) > 1:
        kinds = " and ".join(f"{kind} ({example})" for kind, example in examples.items())
        raise CollectionError(f"{folder} may be read as {kinds}; say which with kind, or name a part of it")
    if not examples:
        raise CollectionError(f"{folder} holds no clips; {_EXPECTED}")
    return next(iter(examples))
