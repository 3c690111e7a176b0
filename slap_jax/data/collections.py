"""Opens any collection of clips: a manifest, a folder with sidecars, tars, or tables."""

import os
from pathlib import Path

from slap_jax.data.entries import Collection
from slap_jax.data.entry_fields import CollectionError
from slap_jax.data.folder import SidecarFolder
from slap_jax.data.manifest import Manifest


def open_collection(
    source: str | os.PathLike[str], *, audio_root: str | os.PathLike[str] | None = None, name: str = ""
) -> Collection:
    """Opens a collection; what it is, is told by what is there."""
    path = Path(source)
    if path.is_dir():
        return SidecarFolder(path, name)
    if not path.is_file():
        raise CollectionError(f"{path} is missing; give a .jsonl or .csv manifest, or a folder of audio files")
    if path.suffix.lower() in (".jsonl", ".ndjson", ".csv"):
        return Manifest(path, audio_root, name)
    raise CollectionError(f"{source} is neither .jsonl, .csv nor a folder; docs/data_format.md shows all three")
