"""The classes of labelled data: their names, how many clips have each, and what a rare class should count."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from slap_jax.data.records import Records, label_keys, label_values
from slap_jax.inference.classifier import FinetuneError


@dataclasses.dataclass(frozen=True)
class Classes:
    """The values of one label key.

    Attributes:
        label: the key.
        names: sorted; the order of the head's outputs.
        counts: clips that have each.
        unlabelled: clips without the label.
    """

    label: str
    names: tuple[str, ...]
    counts: tuple[int, ...]
    unlabelled: int

    def weights(self, balance: float) -> tuple[float, ...]:
        """Returns what a clip of each class counts: its class's frequency to the power `-balance`, 1 on average.

        Args:
            balance: 0 counts all clips alike (returned as ()), 1 all classes.
        """
        if balance == 0:
            return ()
        raw = [count**-balance for count in self.counts]
        mean = sum(weight * count for weight, count in zip(raw, self.counts, strict=True)) / sum(self.counts)
        return tuple(weight / mean for weight in raw)


def find_classes(splits: Sequence[Records], label: str = "", multi_label: bool = False) -> Classes:
    """Reads the labels of all clips.

    Args:
        splits: the training data.
        label: key of the labels "key=value"; "" takes `label`, or the only key that there is.
        multi_label: whether a clip may have several values.

    Raises:
        FinetuneError: no such label, fewer than two classes, or several values where one is expected.
    """
    where = " and ".join(f"split {records.split!r} of {records.path}" for records in splits)
    labelled = [(record.labels, f"{record.source}/{record.id}") for records in splits for record in records]
    label = label or _only_key((labels for labels, _ in labelled), where)
    counts: collections.Counter[str] = collections.Counter()
    unlabelled = 0
    for labels, name in labelled:
        values = label_values(labels, label)
        unlabelled += not values
        counts.update(values)
        if len(values) > 1 and not multi_label:
            raise FinetuneError(
                f"record {name} in {where} has {len(values)} values of the label {label!r} ({', '.join(values)}); "
                "for any number of classes a clip give --multi-label"
            )
    if not counts:
        keys = ", ".join(label_keys(labels for labels, _ in labelled)) or "none"
        raise FinetuneError(f"no clip in {where} has the label {label!r}; its label keys: {keys}")
    if len(counts) < 2:
        raise FinetuneError(
            f"all labels {label!r} in {where} are {next(iter(counts))!r}; two classes or more are needed"
        )
    names = tuple(sorted(counts))
    return Classes(label, names, tuple(counts[name] for name in names), unlabelled)


def require_captions(splits: Sequence[Records], task: str) -> None:
    """Raises `FinetuneError` where no clip has a caption."""
    if any(record.captions for records in splits for record in records):
        return
    where = " and ".join(f"split {records.split!r} of {records.path}" for records in splits)
    keys = ", ".join(label_keys(record.labels for records in splits for record in records))
    instead = f"; it has labels: give --task classification --label KEY, one of {keys}" if keys else ""
    raise FinetuneError(f"no clip in {where} has a caption, and {task} learns from captions{instead}")


def _only_key(labels: Iterable[Sequence[str]], where: str) -> str:
    keys = label_keys(labels)
    if not keys:
        raise FinetuneError(f"no clip in {where} has labels of the form key=value; prepare the data with labels")
    if "label" in keys:
        return "label"
    if len(keys) > 1:
        raise FinetuneError(f"the clips in {where} have labels {', '.join(keys)}; name one with --label KEY")
    return keys[0]
