"""The index of a split: length, id hash and audio hash of every record, without reading the records.

`slap prepare` writes an index as a folder of `.npy` files next to the shards. It is read through memory maps, so
opening the index of 100 million records takes no time and reads only what is accessed.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int16, Int64, UInt64

from slap_jax.data.records import INDEX, RecordsError, dataset_directory, full_id, split_names

_COLUMNS = {"samples": np.int64, "id_hash": np.uint64, "audio_hash": np.uint64}
_HASHES = ("id_hash", "audio_hash")


class SplitIndex:
    """The index of a split, in record order.

    Attributes:
        samples: int64 length of each record at 16 kHz.
        id_hash: `hash_id` of each record.
        audio_hash: `hash_audio` of each record.
    """

    def __init__(self, folders: Sequence[Path]):
        """Opens the index folders of splits, whose records are numbered one split after the other."""
        self._parts = [_Part(folder) for folder in folders]
        self.samples: Int64[np.ndarray, " n"] = _joined([part.samples for part in self._parts])
        self.id_hash: UInt64[np.ndarray, " n"] = _joined([part.id_hash for part in self._parts])
        self.audio_hash: UInt64[np.ndarray, " n"] = _joined([part.audio_hash for part in self._parts])

    def __len__(self) -> int:
        return len(self.samples)

    def lookup_ids(self, hashes: UInt64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """Returns for each `hash_id` the index of its record, or -1."""
        return self._lookup("id_hash", hashes)

    def lookup_audio(self, hashes: UInt64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """Returns for each `hash_audio` the index of the first record with these samples, or -1."""
        return self._lookup("audio_hash", hashes)

    def _lookup(self, column: str, hashes: UInt64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        records = np.full(len(hashes), -1, np.int64)
        order = np.argsort(hashes, kind="stable")  # sorted queries read each page of the file once
        start = 0
        for part in self._parts:
            matches = part.lookup(column, hashes[order])
            is_new = (records[order] < 0) & (matches >= 0)
            records[order] = np.where(is_new, matches + start, records[order])
            start += len(part.samples)
        return records


class _Part:
    """The index of one split."""

    def __init__(self, folder: Path):
        self.samples, self.id_hash, self.audio_hash = (_open(folder, column) for column in _COLUMNS)
        self._sorted = {column: _open(folder, f"{column}_sorted") for column in _HASHES}
        self._order = {column: _open(folder, f"{column}_order") for column in _HASHES}

    def lookup(self, column: str, hashes: UInt64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        ordered = self._sorted[column]
        positions = np.searchsorted(ordered, hashes)
        positions[positions == len(ordered)] = 0
        return np.where(ordered[positions] == hashes, self._order[column][positions], -1)


def open_index(path: str | os.PathLike[str], split: str) -> SplitIndex:
    """Opens the index of a split through memory maps.

    Args:
        path: as for `open_split`.
        split: name, or several like "val+test"; the records have the same order as in `open_split`.

    Raises:
        RecordsError: there are no prepared data, the split does not exist, an older version wrote it without index, or
            its index is damaged.
    """
    directory = dataset_directory(path)
    folders = [directory / INDEX / name for name in split_names(path, split)]
    for folder in folders:
        if not folder.is_dir():
            raise RecordsError(
                f"{path} has no index of split {folder.name!r}: an older version wrote it; prepare it again"
            )
    return SplitIndex(folders)


def write_index(folder: Path, count: int, parts: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Writes the index of a split; sorting takes about 24 bytes of memory per record.

    Args:
        folder: folder to create.
        count: number of records in the split.
        parts: consecutive chunks of the columns samples, id_hash and audio_hash.
    """
    folder.mkdir(parents=True)
    columns = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(count,))
        for name, dtype in _COLUMNS.items()
    }
    start = 0
    for part in parts:
        length = len(part["samples"])
        for name, column in columns.items():
            column[start : start + length] = part[name]
        start += length
    for name in _HASHES:
        order = np.argsort(columns[name], kind="stable")
        np.save(folder / f"{name}_sorted.npy", columns[name][order])
        np.save(folder / f"{name}_order.npy", order.astype(np.int64, copy=False))


def hash_id(source: str, clip_id: str) -> int:
    """Returns a uint64 of `full_id`; that any two of 100 million clips share one has a probability of 0.0003."""
    return hash_bytes(full_id(source, clip_id).encode())


def hash_audio(waveform: Int16[np.ndarray, " n"]) -> int:
    """Returns a uint64 of the samples as stored: 16 kHz, mono, 16 bits."""
    return hash_bytes(np.ascontiguousarray(waveform, "<i2").data)


def hash_bytes(data: bytes | memoryview) -> int:
    """Returns a uint64 of bytes, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _open(folder: Path, name: str) -> np.ndarray:
    file = folder / f"{name}.npy"
    try:
        return np.load(file, mmap_mode="r")
    except (OSError, EOFError, ValueError) as error:
        raise RecordsError(
            f"{file} is missing or damaged ({error}); copy the data again, or prepare them again"
        ) from None


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
