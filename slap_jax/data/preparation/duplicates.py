"""Clips that must not occur twice: repeated ids, repeated audio, and clips of evaluation splits.

All comparisons use 64-bit hashes in NumPy arrays, at 8 bytes per clip.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from slap_jax.data.index import hash_id, open_index
from slap_jax.data.records import parse_dir_split
from slap_jax.errors import UserError

EXCLUDED_EVALUATION = "excluded_evaluation"  # reason of the rejections


class ExclusionError(UserError, ValueError):
    """An `--exclude` that does not name a split of prepared data."""


@dataclasses.dataclass(frozen=True)
class ExcludedClips:
    """Clips to leave out, recognised by id before decoding, or by audio.

    Attributes:
        ids: sorted `hash_id` of the clips.
        audio: sorted `hash_audio` of the clips.
    """

    ids: UInt64[np.ndarray, " n"]
    audio: UInt64[np.ndarray, " m"]

    def has_id(self, source: str, clip_id: str) -> bool:
        """Returns whether a clip is excluded by its source and id."""
        return _contains(self.ids, hash_id(source, clip_id))

    def has_audio(self, audio_hash: int) -> bool:
        """Returns whether a clip is excluded by the `hash_audio` of its samples."""
        return _contains(self.audio, audio_hash)

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the excluded clips, which prepared data depend on."""
        return hashlib.blake2b(self.ids.tobytes() + self.audio.tobytes(), digest_size=16).hexdigest()


def excluded_clips(splits: Sequence[str]) -> ExcludedClips:
    """Reads the indexes of the splits to exclude.

    Args:
        splits: each "PATH:SPLIT", where SPLIT may join several, such as "val+test".

    Raises:
        ExclusionError: a text has another form.
        RecordsError: PATH has no prepared data, no such split, or no index because an older version prepared it.
    """
    indexes = []
    for text in splits:
        path, split = parse_dir_split(text)
        if not path or not split:
            raise ExclusionError(f"--exclude {text!r} is not PATH:SPLIT of prepared data, such as data/esc50:test")
        indexes.append(open_index(path, split))
    empty = np.empty(0, np.uint64)
    return ExcludedClips(
        ids=np.unique(np.concatenate([empty, *(index.id_hash for index in indexes)])),
        audio=np.unique(np.concatenate([empty, *(index.audio_hash for index in indexes)])),
    )


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Groups of records with equal audio; records are numbered through all splits.

    Attributes:
        groups: the records of each group in order; groups in the order of their first records.
    """

    groups: list[Int64[np.ndarray, " n"]]

    @property
    def later(self) -> Int64[np.ndarray, " n"]:
        """The records that are not the first of their group, in order."""
        return np.sort(np.concatenate([np.empty(0, np.int64), *(group[1:] for group in self.groups)]))


def find_duplicates(hashes: Iterable[UInt64[np.ndarray, " n"]]) -> Duplicates:
    """Groups records by equal `hash_audio`.

    Args:
        hashes: hashes of all records, in pieces.
    """
    joined = np.concatenate([np.empty(0, np.uint64), *hashes])
    order = np.argsort(joined, kind="stable")
    ordered = joined[order]
    repeats_previous = np.concatenate([[False], ordered[1:] == ordered[:-1], [False]])[: len(ordered) + 1]
    in_group = repeats_previous[:-1] | repeats_previous[1:]
    starts = np.flatnonzero(~repeats_previous[:-1][in_group])
    groups = np.split(order[in_group], starts[1:]) if len(starts) else []
    return Duplicates(sorted(groups, key=lambda group: int(group[0])))


class HashSet:
    """A growing set of 64-bit hashes, stored as one sorted array."""

    def __init__(self):
        self._hashes: UInt64[np.ndarray, " n"] = np.empty(0, np.uint64)

    def add(self, hashes: UInt64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Adds hashes in time linear in the set; add thousands at once.

        Returns:
            Whether each hash is new: neither in the set before nor earlier in `hashes`.
        """
        values, first = np.unique(hashes, return_index=True)
        positions = np.searchsorted(self._hashes, values)
        is_absent = np.ones(len(values), bool)
        inside = positions < len(self._hashes)
        is_absent[inside] = self._hashes[positions[inside]] != values[inside]
        self._hashes = np.insert(self._hashes, positions[is_absent], values[is_absent])
        is_new = np.zeros(len(hashes), bool)
        is_new[first[is_absent]] = True
        return is_new

    def clear(self) -> None:
        """Removes all hashes."""
        self._hashes = np.empty(0, np.uint64)

    def contains(self, hashes: UInt64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Returns whether each hash is in the set."""
        return np.isin(hashes, self._hashes)


def _contains(ordered: UInt64[np.ndarray, " n"], value: int) -> bool:
    position = int(np.searchsorted(ordered, np.uint64(value)))
    return position < len(ordered) and int(ordered[position]) == value
