"""The classes of labelled data: their names, their counts, and the weights that balance them."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from slap_jax.data.batches.labels import label_keys, label_values
from slap_jax.data.records import Records
from slap_jax.inference.classifier import FinetuneError


@dataclasses.dataclass(frozen=True)
class Classes:
    """The values of one label key.

    Attributes:
        label: the key.
        names: the values, sorted; the order of the head's outputs.
        counts: number of clips of each class.
        unlabelled: clips without the label.
    """

    label: str
    names: tuple[str, ...]
    counts: tuple[int, ...]
    unlabelled: int

    def weights(self, balance: float) -> tuple[float, ...]:
        """Returns the weight of a clip of each class: `count^-balance`, scaled so that the mean over clips is 1.

        Args:
            balance: 0 weights all clips equally (returned as ()), 1 all classes.
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
        label: key of the labels "key=value"; "" for `label`, or for the only key in the data.
        multi_label: whether a clip may have several values.

    Raises:
        FinetuneError: no clip has the label, there are fewer than two classes, or a clip has several but
            `multi_label` is False.
    """
    where = _where(splits)
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
                "give --multi-label if a clip may have several classes"
            )
    if not counts:
        keys = ", ".join(label_keys(labels for labels, _ in labelled)) or "none"
        raise FinetuneError(f"no clip in {where} has the label {label!r}; its label keys: {keys}")
    if len(counts) < 2:
        raise FinetuneError(
            f"all labels {label!r} in {where} are {next(iter(counts))!r}; prepare data with two or more classes"
        )
    names = tuple(sorted(counts))
    return Classes(label, names, tuple(counts[name] for name in names), unlabelled)


def require_captions(splits: Sequence[Records], task: str) -> None:
    """Raises `FinetuneError` unless a clip has a caption."""
    if any(record.captions for records in splits for record in records):
        return
    keys = ", ".join(label_keys(record.labels for records in splits for record in records))
    instead = (
        f"; it has labels: for them give --task classification --label KEY, with KEY one of {keys}" if keys else ""
    )
    raise FinetuneError(f"no clip in {_where(splits)} has a caption, and {task} learns from captions{instead}")


def _where(splits: Sequence[Records]) -> str:
    return " and ".join(f"split {records.split!r} of {records.path}" for records in splits)


def _only_key(labels: Iterable[Sequence[str]], where: str) -> str:
    keys = label_keys(labels)
    if not keys:
        raise FinetuneError(f"no clip in {where} has labels of the form key=value; prepare the data with labels")
    if "label" in keys:
        return "label"
    if len(keys) > 1:
        raise FinetuneError(f"the clips in {where} have labels {', '.join(keys)}; name one with --label KEY")
    return keys[0]
