"""Labels "key=value", and the targets of a clip: a caption, from its captions or labels, and its classes."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from slap_jax.data.records import Record
from slap_jax.errors import UserError


class MissingCaptionError(UserError, ValueError):
    """A record has no caption and no labels to make one of; the message says what to write."""


class LabelError(UserError, ValueError):
    """The classification objective cannot use the labels of a record; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class CaptionPolicy:
    """`config.data.train.NAME.captions` as plain values; the defaults are in `slap_jax.config.defaults`.

    Attributes:
        choice: "uniform", any caption; "first", the best; "by_length", a length first, then a caption of that length.
        paraphrase_probability: "first" only: probability of one of the other captions.
        length_bounds: "by_length" only: largest number of words of a short and of a medium caption.
        length_shares: "by_length" only: relative probabilities of short, medium and long among the lengths that the
            clip has.
        tag_probability: probability of a caption made from the labels; always 1 for a clip without captions.
        tag_templates: one is drawn; `{}` is replaced by the labels.
        tag_keys: keys of the labels "key=value" whose values are used, () for every key; plain words are always used.
    """

    choice: str
    paraphrase_probability: float
    length_bounds: tuple[int, int]
    length_shares: tuple[float, float, float]
    tag_probability: float
    tag_templates: tuple[str, ...]
    tag_keys: tuple[str, ...]


def parse_label(label: str) -> tuple[str | None, str]:
    """Splits a label "key=value" at its first "=" into (key, value); a plain word has no key: (None, word)."""
    key, is_pair, value = label.partition("=")
    return (key, value) if is_pair else (None, label)


def label_values(labels: Iterable[str], key: str) -> list[str]:
    """Returns the distinct values of the labels "key=value" of one clip, in their order."""
    return list(dict.fromkeys(value for name, value in map(parse_label, labels) if name == key))


def label_keys(clips: Iterable[Iterable[str]]) -> list[str]:
    """Returns the distinct keys of the labels "key=value" of several clips, in alphabetical order."""
    return sorted({key for labels in clips for key, _ in map(parse_label, labels) if key is not None})


def caption_policy(settings: Mapping[str, Any]) -> CaptionPolicy:
    """Reads the policy from `config.data.train.NAME.captions`, once, because looking into a config is slow."""
    return CaptionPolicy(**dict(settings.items()))


def reads_captions(config: ConfigDict) -> bool:
    """Returns whether a run needs captions: not if classification is the only objective that reads labels or text."""
    objectives = config.objectives
    return (
        objectives.classification.weight == 0 or objectives.contrastive.weight > 0 or objectives.captioning.weight > 0
    )


def choose_caption(record: Record, policy: CaptionPolicy, generator: np.random.Generator) -> str:
    """Chooses a caption of a record, or makes one from its labels; the result depends only on the arguments.

    Args:
        record: has captions, labels or both.
        policy: policy of the record's source.
        generator: drawn from in a fixed order.

    Raises:
        MissingCaptionError: there are no captions, and no labels that `policy.tag_keys` admits.
    """
    captions = record.captions
    if not captions or (policy.tag_probability > 0 and generator.random() < policy.tag_probability):
        tags = tag_texts(record.labels, policy.tag_keys)
        if tags:
            return tag_caption(tags, policy.tag_templates, generator)
    if not captions:
        allowed = " or ".join(policy.tag_keys) or "any key"
        raise MissingCaptionError(
            f"record {record.source}/{record.id} has no captions, and none of its labels "
            f"({', '.join(record.labels) or 'none'}) is a plain word or of key {allowed}; write its label keys into "
            "captions={'tag_keys': (...)} of its source, or leave it out of the training split"
        )
    if policy.choice == "by_length":
        captions = _of_one_length(captions, policy, generator)
    elif policy.choice == "first":
        paraphrase = len(captions) > 1 and generator.random() < policy.paraphrase_probability
        captions = captions[1:] if paraphrase else captions[:1]
    return captions[int(generator.integers(len(captions)))]


def tag_texts(labels: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Returns the distinct words of labels: values of "key=value" for the given keys (() for all), and plain words.

    Underscores become spaces, as in the prompts of zero-shot classification.
    """
    texts = []
    for label in labels:
        key, value = parse_label(label)
        if key is None or not keys or key in keys:
            texts.append(value.replace("_", " ").strip())
    return list(dict.fromkeys(filter(None, texts)))


def tag_caption(tags: Sequence[str], templates: Sequence[str], generator: np.random.Generator) -> str:
    """Puts tags in random order into a random template: "the sound of rain, wind and thunder"."""
    template = templates[int(generator.integers(len(templates)))]
    shuffled = [tags[int(index)] for index in generator.permutation(len(tags))]
    listed = " and ".join(filter(None, [", ".join(shuffled[:-1]), shuffled[-1]]))
    return template.replace("{}", listed)


class LabelReader:
    """Reads the classes of a clip, as indices into `config.objectives.classification.classes`.

    Attributes:
        mixup: probability that a clip is mixed with another one, and alpha of the Beta distribution of the fractions.
    """

    def __init__(self, settings: ConfigDict):
        self._key, self._multi_label = settings.label, settings.multi_label
        self._index = {name: index for index, name in enumerate(settings.classes)}
        self.mixup = (float(settings.mixup_probability), float(settings.mixup_alpha))

    def __call__(self, record: Record) -> tuple[int, ...]:
        """Returns the indices of the clip's classes in ascending order; () for a clip without the label.

        Raises:
            LabelError: a value is not a class, or there are several values and `multi_label` is off.
        """
        values = label_values(record.labels, self._key)
        name = f"record {record.source}/{record.id}"
        unknown = [value for value in values if value not in self._index]
        if unknown:
            raise LabelError(
                f"{name} has {self._key}={unknown[0]}, which is not one of the {len(self._index)} classes of "
                "config.objectives.classification.classes; add it there, or leave the record out"
            )
        if len(values) > 1 and not self._multi_label:
            raise LabelError(
                f"{name} has {len(values)} values of the label {self._key!r} ({', '.join(values)}); for any number of "
                "classes per clip set config.objectives.classification.multi_label=True"
            )
        return tuple(sorted(self._index[value] for value in values))


def _of_one_length(captions: Sequence[str], policy: CaptionPolicy, generator: np.random.Generator) -> Sequence[str]:
    """Draws short, medium or long among the lengths of the clip; all captions if these lengths have probability 0."""
    short, medium = policy.length_bounds
    groups: tuple[list[str], ...] = ([], [], [])
    for caption in captions:
        words = len(caption.split())
        groups[(words > short) + (words > medium)].append(caption)
    weights = np.array([weight if group else 0.0 for group, weight in zip(groups, policy.length_shares, strict=True)])
    if not weights.any():
        return captions
    return groups[int(generator.choice(3, p=weights / weights.sum()))]
