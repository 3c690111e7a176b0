"""A set of 64-bit hashes that costs 8 bytes each, where Python's own takes ten times as much."""

import numpy as np
from jaxtyping import Bool, UInt64


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
