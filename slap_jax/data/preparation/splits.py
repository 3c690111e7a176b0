"""`slap prepare --split 80/10/10`: divides a collection without splits into train, val and test.

The split of a clip depends on its group or its id and on the seed alone, so it stays when clips are added or removed.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.fields import DEFAULT_SPLIT
from slap_jax.errors import UserError

NAMES = (DEFAULT_SPLIT, "val", "test")
EXAMPLE = "80/10/10"
_FULL = 100.0


class SplitError(UserError, ValueError):
    """Shares of another form, or a collection that names its splits itself."""


@dataclasses.dataclass(frozen=True)
class SplitShares:
    """How to divide a collection.

    Attributes:
        percent: split -> percentage of the clips, or of the groups of clips; they sum to 100.
        seed: another seed divides the clips differently.
    """

    percent: Mapping[str, float]
    seed: int = 0

    def split_of(self, entry: Entry) -> str:
        """Returns the split of a clip; clips of one group have the same."""
        kind, name = ("group", entry.group) if entry.group else ("id", entry.id)
        digest = hashlib.blake2b(f"{self.seed}\n{kind}\n{name}".encode(), digest_size=8).digest()
        position = _FULL * int.from_bytes(digest, "little") / 2**64
        upper = 0.0
        for split, percent in self.percent.items():
            upper += percent
            if position < upper:
                return split
        return split

    def assign(self, clips: Iterator[Entry | Rejection]) -> Iterator[Entry | Rejection]:
        """Replaces the split of each clip.

        Raises:
            SplitError: a clip is in another split than train, so the collection names its splits itself.
        """
        for clip in clips:
            if isinstance(clip, Entry):
                if clip.split != DEFAULT_SPLIT:
                    raise SplitError(
                        f"the collection names its splits itself ({clip.where or clip.id} is in {clip.split!r}), so "
                        "there is nothing for --split to divide; leave --split out, or remove the splits from the "
                        "collection"
                    )
                clip = dataclasses.replace(clip, split=self.split_of(clip))
            yield clip


def parse_shares(text: str, seed: int = 0) -> SplitShares:
    """Parses percentages: "80/10/10" of train, val and test, or "90/10" of train and val.

    Args:
        text: two or three numbers from 0 that sum to 100; the first is above 0.
        seed: seed of the division.

    Raises:
        SplitError: the text has another form.
    """
    try:
        numbers = [float(part) for part in text.split("/")]
    except ValueError:
        numbers = []
    is_valid = len(numbers) in (2, 3) and numbers[0] > 0 and min(numbers) >= 0 and abs(sum(numbers) - _FULL) < 1e-6
    if not is_valid:
        raise SplitError(
            f"--split {text} is not a list of percentages; write TRAIN/VAL/TEST like {EXAMPLE}, or TRAIN/VAL like "
            "90/10; together they must be 100"
        )
    return SplitShares({name: number for name, number in zip(NAMES, numbers, strict=False) if number}, seed)


def split_advice(splits: Mapping[str, object], shares: SplitShares | None, *, is_published: bool) -> Iterator[str]:
    """Says which splits came out empty, or that a collection has nothing to evaluate on.

    Args:
        splits: the splits that have clips.
        shares: how the collection was divided, if it was.
        is_published: whether it is a published dataset, whose publisher chose the splits.
    """
    if shares is not None:
        for split, percent in shares.percent.items():
            if split not in splits:
                yield (
                    f"split {split} is empty: the clips, or their groups, are too few for {percent:g} %; give it a "
                    "larger share, add clips, or try another --split-seed"
                )
    elif set(splits) == {DEFAULT_SPLIT} and not is_published:
        yield (
            f"all clips are in {DEFAULT_SPLIT}, so there are none to evaluate on: --split {EXAMPLE} divides them into "
            f"{', '.join(NAMES[:-1])} and {NAMES[-1]}"
        )
