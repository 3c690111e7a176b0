"""Clips that `slap prepare --exclude PATH:SPLIT` leaves out: those of prepared evaluation splits.

Clips whose audio is the same, sample for sample, in one split or in several.

A set of 64-bit hashes that costs 8 bytes each, where Python's own takes ten times as much.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from slap_jax.data.index import hash_id, new_array, open_index, sort_hashes
from slap_jax.data.records import parse_dir_split
from slap_jax.errors import UserError

REASON = "excluded_evaluation"


class ExclusionError(UserError, ValueError):
    """An `--exclude` that does not name a split of prepared data."""


@dataclasses.dataclass(frozen=True)
class ExcludedClips:
    """Clips that are told by their id, before anything is decoded, or by their audio.

    Attributes:
        ids: sorted `hash_id` of each.
        audio: sorted `hash_audio` of each.
    """

    ids: UInt64[np.ndarray, " n"]
    audio: UInt64[np.ndarray, " m"]

    def has_id(self, source: str, clip_id: str) -> bool:
        """Whether the clip of that collection and id is one of them."""
        return _contains(self.ids, hash_id(source, clip_id))

    def has_audio(self, audio_hash: int) -> bool:
        """Whether one of them has the samples of that `hash_audio`."""
        return _contains(self.audio, audio_hash)

    @functools.cached_property
    def digest(self) -> str:
        """Of what is left out: data prepared with another one are other data."""
        return hashlib.blake2b(self.ids.tobytes() + self.audio.tobytes(), digest_size=16).hexdigest()


def excluded_clips(splits: Sequence[str]) -> ExcludedClips:
    """Reads the indexes of splits.

    Args:
        splits: each "PATH:SPLIT", where SPLIT may join several like "val+test"; none excludes nothing.

    Raises:
        ExclusionError: another form.
        RecordsError: no prepared data there, no such split, or no index because an older version wrote the data.
    """
    indexes = []
    for text in splits:
        path, split = parse_dir_split(text)
        if not path or not split:
            raise ExclusionError(f"--exclude {text!r} is not PATH:SPLIT of prepared data, like data/esc50:test")
        indexes.append(open_index(path, split))
    none = np.empty(0, np.uint64)
    return ExcludedClips(
        ids=np.unique(np.concatenate([none, *(index.id_hash for index in indexes)])),
        audio=np.unique(np.concatenate([none, *(index.audio_hash for index in indexes)])),
    )


def _contains(ordered: UInt64[np.ndarray, " n"], value: int) -> bool:
    place = int(np.searchsorted(ordered, np.uint64(value)))
    return place < len(ordered) and int(ordered[place]) == value


_HASHES_AT_A_TIME = 1 << 20


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Groups of records with the same audio; records are numbered through all splits.

    Attributes:
        groups: the records of each group in their order, the groups in the order of their first records.
    """

    groups: list[Int64[np.ndarray, " n"]]

    @property
    def later(self) -> Int64[np.ndarray, " n"]:
        """The records that are not the first of their group, in their order."""
        return np.sort(np.concatenate([np.empty(0, np.int64), *(group[1:] for group in self.groups)]))


def find_duplicates(hashes: Iterable[UInt64[np.ndarray, " n"]], count: int, scratch: Path) -> Duplicates:
    """Finds equal audio hashes; memory grows with the duplicates alone.

    Args:
        hashes: `hash_audio` of all records, in pieces.
        count: number of records.
        scratch: folder for files of 24 bytes a record, which may be removed afterwards.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    joined = new_array(scratch / "hashes.npy", np.uint64, count)
    start = 0
    for piece in hashes:
        joined[start : start + len(piece)] = piece
        start += len(piece)
    sort_hashes(joined, scratch / "sorted.npy", scratch / "order.npy")
    ordered, order = (np.load(scratch / f"{name}.npy", mmap_mode="r") for name in ("sorted", "order"))
    records, begins = [], []
    for start in range(0, count, _HASHES_AT_A_TIME):
        # One more on each side, so that groups across the edge are seen.
        low, high = max(start - 1, 0), min(start + _HASHES_AT_A_TIME + 1, count)
        equal_to_last = np.concatenate([[False], ordered[low + 1 : high] == ordered[low : high - 1], [False]])
        in_group = equal_to_last[:-1] | equal_to_last[1:]
        own = slice(start - low, min(start + _HASHES_AT_A_TIME, count) - low)
        members = in_group[own]
        records.append(order[low:high][own][members])
        begins.append(~equal_to_last[:-1][own][members])
    groups = np.split(np.concatenate(records), np.flatnonzero(np.concatenate(begins))[1:])
    return Duplicates(sorted((group for group in groups if len(group)), key=lambda group: int(group[0])))


class HashSet:
    """Grows by whole arrays, and tells which of their hashes were new.

    The hashes lie in sorted runs. Two runs of about the same length are merged, which takes twice their memory for a
    moment, so that there are only as many as the number of hashes has binary digits.
    """

    def __init__(self):
        self._runs: list[UInt64[np.ndarray, " n"]] = []

    def add(self, hashes: UInt64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Adds hashes; returns for each whether it was neither in the set nor earlier in the array."""
        values, first = np.unique(hashes, return_index=True)
        absent = np.ones(len(values), bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, values), len(run) - 1)
            absent &= run[places] != values
        new = np.zeros(len(hashes), bool)
        new[first[absent]] = True
        self._append(values[absent])
        return new

    def _append(self, run: UInt64[np.ndarray, " n"]) -> None:
        if len(run):
            self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            self._runs[-2:] = [np.concatenate(self._runs[-2:])]
            self._runs[-1].sort(kind="stable")  # linear in time: it finds the two runs
