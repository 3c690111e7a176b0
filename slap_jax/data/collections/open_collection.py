"""Opens any collection of clips; the files that are present decide its kind."""

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slap_jax.data.audio import AUDIO_SUFFIXES
from slap_jax.data.collections.entries import Collection, Rejection
from slap_jax.data.collections.fields import CollectionError
from slap_jax.data.collections.folders import FILE_COLUMN, METADATA_FILES, AudioFolder, SidecarFolder, walk_files
from slap_jax.data.collections.huggingface import SPLITS_FILE, STATE_FILE, TABLE_SUFFIXES, HuggingFaceTables
from slap_jax.data.collections.manifest import Manifest
from slap_jax.data.collections.rows import JSON_LINES_SUFFIXES, csv_header
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
  a folder                      of audio files, each with a .txt or .json
  a folder, a .tar, a pattern   WebDataset tars, like "shards/{000..099}.tar"
  a folder or a .parquet        Hugging Face tables, or the output of save_to_disk()
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
        audio_root: folder that the paths in a manifest or a table are relative to; by default that of `source`.
        name: name of the collection; by default its folder and the folder above, such as "clotho/audio".
        kind: key of `KINDS`; by default determined from the files.
        **options: options of the class of the kind; empty values count as not given, and columns may be joined:
            "title+text".

    Raises:
        CollectionError: the files fit no kind or several, or the kind has no such option.
    """
    kind = kind or kind_of(source)
    if kind not in KINDS:
        raise CollectionError(f"{kind!r} is not a kind of collection; expected {', '.join(KINDS)}")
    given = {"audio_root": audio_root, "name": name, **options}
    given = {
        option: value.split("+") if option.endswith("_columns") and isinstance(value, str) else value
        for option, value in given.items()
        if value
    }
    known = [option for option in inspect.signature(KINDS[kind]).parameters][1:]
    unknown = [option for option in given if option not in known]
    if unknown:
        raise CollectionError(
            f"{source} is read as {kind}, which has no option {unknown[0]!r}; it has {', '.join(known)}"
        )
    return KINDS[kind](source, **given)


def kind_of(source: str | os.PathLike[str]) -> str:
    """Determines the kind of a collection: from the name of a file, or from the files of a folder.

    Raises:
        CollectionError: the files fit no kind or several.
    """
    path = Path(source)
    if path.is_dir():
        return _kind_of_folder(path)
    suffix = path.suffix.lower()
    if is_tar(path.name):
        return "webdataset"
    if not path.is_file():
        state = "matches no file" if is_pattern(os.fspath(source)) else "is missing"
        raise CollectionError(f"{source} {state}; give a manifest, a folder, tars or tables (docs/collections.md)")
    if suffix in (*JSON_LINES_SUFFIXES, ".csv"):
        return "manifest"
    if suffix in TABLE_SUFFIXES:
        return "huggingface"
    raise CollectionError(f"{source} is not a collection that slap reads; {_EXPECTED}")


def _kind_of_folder(folder: Path) -> str:
    if (folder / SPLITS_FILE).is_file() or (folder / STATE_FILE).is_file():
        return "huggingface"
    examples: dict[str, str] = {}
    for file in walk_files(folder):
        if isinstance(file, Rejection):
            continue
        suffix = file.suffix.lower()
        if suffix in AUDIO_SUFFIXES:
            examples.setdefault("folder", str(file))
        elif is_tar(file.name):
            examples.setdefault("webdataset", str(file))
        elif suffix in TABLE_SUFFIXES:
            examples.setdefault("huggingface", str(file))
        elif file.name in METADATA_FILES and (suffix != ".csv" or FILE_COLUMN in csv_header(folder / file)):
            examples.setdefault("audiofolder", str(file))
    if "audiofolder" in examples:
        examples.pop("folder", None)  # the audio files that the metadata name
    if len(examples) > 1:
        kinds = " and ".join(f"{kind} ({example})" for kind, example in examples.items())
        raise CollectionError(f"{folder} can be read as {kinds}; choose one with kind, or name a part of the folder")
    if not examples:
        raise CollectionError(f"{folder} holds no clips; {_EXPECTED}")
    return next(iter(examples))
