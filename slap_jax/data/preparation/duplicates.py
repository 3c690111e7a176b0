"""Clips whose audio is the same, sample for sample, in one split or in several."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt64

from slap_jax.data.record_index import new_array, sort_hashes

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
