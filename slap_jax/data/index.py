"""What is asked of every record without reading it: its length, which clip it is, and which audio it holds.

An index is a folder of `.npy` files beside the shards, written by `slap prepare` and read as memory maps: opening the
index of 100 million records takes no time, and only what is looked at is read.
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

# Hashes are spread evenly, so they fall into buckets of about this many, which are sorted one at a time.
_BUCKET = 1 << 20


class SplitIndex:
    """The index of a split, in record order.

    Attributes:
        samples: int64 length of each record at 16 kHz.
        id_hash: `hash_id` of each record.
        audio_hash: `hash_audio` of each record.
    """

    def __init__(self, folders: Sequence[Path]):
        """Opens the index folders of the splits that were joined."""
        self._parts = [_Part(folder) for folder in folders]
        self.samples: Int64[np.ndarray, " n"] = _joined([part.samples for part in self._parts])
        self.id_hash: UInt64[np.ndarray, " n"] = _joined([part.id_hash for part in self._parts])
        self.audio_hash: UInt64[np.ndarray, " n"] = _joined([part.audio_hash for part in self._parts])

    def __len__(self) -> int:
        return len(self.samples)

    def lookup_ids(self, hashes: UInt64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """Returns for each `hash_id` the number of the record that has it, or -1."""
        return self._lookup("id_hash", hashes)

    def lookup_audio(self, hashes: UInt64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """Returns for each `hash_audio` the number of the first record that has it, or -1."""
        return self._lookup("audio_hash", hashes)

    def _lookup(self, column: str, hashes: UInt64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        numbers = np.full(len(hashes), -1, np.int64)
        queries = np.argsort(hashes, kind="stable")  # in order, each page of the file is read once
        start = 0
        for part in self._parts:
            found = part.lookup(column, hashes[queries])
            absent = numbers[queries] < 0
            numbers[queries] = np.where(absent & (found >= 0), found + start, numbers[queries])
            start += len(part.samples)
        return numbers


class _Part:
    """The files of one split."""

    def __init__(self, folder: Path):
        self.samples, self.id_hash, self.audio_hash = (_open(folder, column) for column in _COLUMNS)
        self._sorted = {column: _open(folder, f"{column}_sorted") for column in _HASHES}
        self._order = {column: _open(folder, f"{column}_order") for column in _HASHES}

    def lookup(self, column: str, hashes: UInt64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        ordered = self._sorted[column]
        places = np.searchsorted(ordered, hashes)
        places[places == len(ordered)] = 0
        return np.where(ordered[places] == hashes, self._order[column][places], -1)


def open_index(path: str | os.PathLike[str], split: str) -> SplitIndex:
    """Opens the index of a split; reads none of it.

    Args:
        path: as of `open_split`.
        split: name, or several like "val+test", whose records are numbered as those of `open_split`.

    Raises:
        RecordsError: no prepared data there, no such split, or data that were prepared before there were indexes.
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
    """Writes the index of a split in little memory.

    Args:
        folder: to make.
        count: records of the split.
        parts: consecutive pieces of the columns samples, id_hash and audio_hash.
    """
    folder.mkdir(parents=True)
    columns = {name: new_array(folder / f"{name}.npy", dtype, count) for name, dtype in _COLUMNS.items()}
    start = 0
    for part in parts:
        length = len(part["samples"])
        for name, column in columns.items():
            column[start : start + length] = part[name]
        start += length
    for name in _HASHES:
        sort_hashes(columns[name], folder / f"{name}_sorted.npy", folder / f"{name}_order.npy")


def new_array(file: Path, dtype: type[np.generic], length: int) -> np.ndarray:
    """Makes a `.npy` file and maps it for writing."""
    return np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(length,))


def sort_hashes(hashes: UInt64[np.ndarray, " n"], sorted_file: Path, order_file: Path) -> None:
    """Writes hashes in order, and which of them each one was; equal ones stay in their order.

    Args:
        hashes: may be mapped from a file; they are spread over all uint64, as hashes are.
        sorted_file: `.npy` to write the hashes to.
        order_file: `.npy` to write their numbers to.
    """
    ordered, order = new_array(sorted_file, np.uint64, len(hashes)), new_array(order_file, np.int64, len(hashes))
    buckets = len(hashes) // _BUCKET + 1
    chunks = range(0, len(hashes), _BUCKET)
    sizes = sum(np.bincount(_bucket(hashes[at : at + _BUCKET], buckets), minlength=buckets) for at in chunks)
    ends = np.cumsum(sizes)
    filled = ends - sizes
    for at in chunks:
        chunk = hashes[at : at + _BUCKET]
        bucket = _bucket(chunk, buckets)
        by_bucket = np.argsort(bucket, kind="stable")
        sizes_here = np.bincount(bucket, minlength=buckets)
        rank = np.arange(len(chunk)) - np.repeat(np.cumsum(sizes_here) - sizes_here, sizes_here)
        places = np.repeat(filled, sizes_here) + rank
        ordered[places], order[places] = chunk[by_bucket], at + by_bucket
        filled += sizes_here
    for start, end in zip((0, *ends), ends, strict=False):
        inside = np.argsort(ordered[start:end], kind="stable")
        ordered[start:end], order[start:end] = ordered[start:end][inside], order[start:end][inside]


def hash_id(source: str, clip_id: str) -> int:
    """Returns a uint64 of `full_id`; that any two of 100 million clips share one has a probability of 0.0003."""
    return hash_bytes(full_id(source, clip_id).encode())


def hash_audio(waveform: Int16[np.ndarray, " n"]) -> int:
    """Returns a uint64 of the samples as stored: 16 kHz, mono, 16 bits."""
    return hash_bytes(np.ascontiguousarray(waveform, "<i2").data)


def hash_bytes(data: bytes | memoryview) -> int:
    """Returns a uint64 of bytes, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _bucket(hashes: UInt64[np.ndarray, " n"], buckets: int) -> Int64[np.ndarray, " n"]:
    """Returns which of equal ranges of uint64 each hash falls into."""
    return ((hashes >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)).astype(np.int64)


def _open(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
