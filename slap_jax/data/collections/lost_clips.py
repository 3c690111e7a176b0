"""Counts the clips that damaged tars and tables lose, so that none is lost without being counted."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from slap_jax.data.collections.entries import Rejection
from slap_jax.data.collections.fields import CollectionError, RejectedClip


@dataclasses.dataclass(frozen=True)
class _Damaged:
    """A damaged file: where it is, what is wrong, the clips that were read from it, and how many it should hold."""

    where: str
    problem: RejectedClip
    clips: int
    expected: int | None
    split: str


class LostClips:
    """Counts the clips of each file of a collection and, at its end, those that are missing."""

    def __init__(self):
        self._largest = 0  # clips of an intact file
        self._intact: Counter[str] = Counter()  # split -> clips of its intact files
        self._damaged: list[_Damaged] = []

    def add_intact(self, clips: int, split: str = "") -> None:
        """Counts the clips of an intact file."""
        self._largest = max(self._largest, clips)
        self._intact[split] += clips

    def add_damaged(
        self, where: str, problem: RejectedClip, clips: int, expected: int | None = None, split: str = ""
    ) -> None:
        """Notes a damaged file.

        Args:
            where: the file.
            problem: reason and detail of the rejection.
            clips: number of clips that were read from it.
            expected: number of clips that it should hold, if the collection states it.
            split: the split that it belongs to.
        """
        self._damaged.append(_Damaged(where, problem, clips, expected, split))

    def rejections(self, totals: Callable[[], Mapping[str, int]] = dict) -> Iterator[Rejection]:
        """Returns one rejection for each damaged file, with the number of clips that are missing.

        Where neither the file nor the split states how many clips it should hold, that is as many as the largest
        intact file has.

        Args:
            totals: returns split -> number of its clips; called only if it is needed.

        Raises:
            CollectionError: that number is unknown, because no file is intact.
        """
        is_unknown = any(file.expected is None for file in self._damaged)
        shares = {split: self._shares(split, total) for split, total in totals().items()} if is_unknown else {}
        for file in self._damaged:
            expected, source = file.expected, "it should hold"
            if expected is None:
                expected = next(shares.get(file.split, iter(())), None)
            if expected is None:
                expected, source = self._largest, "the largest intact file has"
            if not expected:
                raise CollectionError(
                    f"{file.problem.detail}; {file.clips} clips of it were read, and how many are missing is unknown"
                )
            detail = f"{file.problem.detail}; {file.clips} clips of it were read, {source} {expected}"
            yield Rejection(file.where, "", file.problem.reason, detail, max(1, expected - file.clips))

    def _shares(self, split: str, total: int) -> Iterator[int]:
        """Distributes the clips of a split that are in no other file over its damaged files."""
        damaged = [file for file in self._damaged if file.split == split]
        unknown = sum(file.expected is None for file in damaged)
        rest = total - self._intact[split] - sum(file.expected or 0 for file in damaged)
        if unknown and rest > 0:
            yield from (rest // unknown + (number < rest % unknown) for number in range(unknown))
