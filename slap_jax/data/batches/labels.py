"""Which caption a clip gets this time: one of its own, or one made from its labels.

The classes of a clip as numbers, from its labels; and whether a run needs captions at all.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from slap_jax.data.records import Record, label_values, parse_label
from slap_jax.errors import UserError


class CaptionError(UserError, ValueError):
    """A record from which no caption can be had; the message says what to write."""


@dataclasses.dataclass(frozen=True)
class CaptionPolicy:
    """`config.data.train.NAME.captions` as plain values, whose defaults are in `slap_jax.config.defaults.defaults`.

    Attributes:
        choice: "uniform", any caption; "first", the best; "by_length", one of a drawn length.
        paraphrase_probability: "first" only: of one of the other captions instead.
        length_bounds: "by_length" only: the most words of a short and of a medium caption.
        length_shares: "by_length" only: how often short, medium and long ones are drawn, of those that the clip has.
        tag_probability: of a caption made from the labels; a clip without captions always gets one.
        tag_templates: one is drawn; `{}` takes the labels.
        tag_keys: keys of the labels "key=value" whose values are used, () for every key; plain words always are.
    """

    choice: str
    paraphrase_probability: float
    length_bounds: tuple[int, int]
    length_shares: tuple[float, float, float]
    tag_probability: float
    tag_templates: tuple[str, ...]
    tag_keys: tuple[str, ...]


def caption_policy(settings: Mapping[str, Any]) -> CaptionPolicy:
    """Reads the policy out of `config.data.train.NAME.captions`, once: looking into a config takes long."""
    return CaptionPolicy(**dict(settings.items()))


def choose_caption(record: Record, policy: CaptionPolicy, generator: np.random.Generator) -> str:
    """Chooses or makes a caption; the result depends on the arguments alone.

    Args:
        record: with captions, or labels, or both.
        policy: of the record's source.
        generator: drawn from in a fixed order.

    Raises:
        CaptionError: neither captions nor labels that `policy.tag_keys` lets through.
    """
    captions = record.captions
    if not captions or (policy.tag_probability > 0 and generator.random() < policy.tag_probability):
        tags = tag_texts(record.labels, policy.tag_keys)
        if tags:
            return tag_caption(tags, policy.tag_templates, generator)
    if not captions:
        allowed = " or ".join(policy.tag_keys) or "any key"
        raise CaptionError(
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


def _of_one_length(captions: Sequence[str], policy: CaptionPolicy, generator: np.random.Generator) -> Sequence[str]:
    """Draws short, medium or long among those that the clip has; all captions if none of these has a share."""
    short, medium = policy.length_bounds
    groups: tuple[list[str], ...] = ([], [], [])
    for caption in captions:
        words = len(caption.split())
        groups[(words > short) + (words > medium)].append(caption)
    shares = np.array([share if group else 0.0 for group, share in zip(groups, policy.length_shares, strict=True)])
    if not shares.any():
        return captions
    return groups[int(generator.choice(3, p=shares / shares.sum()))]


def tag_texts(labels: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Returns the words of labels, each once: values of "key=value" for the given keys (() for all), and plain words.

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


class LabelError(UserError, ValueError):
    """Labels that the classification objective cannot use; the message says what to change."""


class LabelReader:
    """Reads which of the classes of `config.objectives.classification` a clip has.

    Attributes:
        mixup: probability that another clip is mixed in, and alpha of the Beta distribution of the shares.
    """

    def __init__(self, settings: ConfigDict):
        """Keeps the settings as plain values: looking into a config takes long."""
        self._key, self._multi_label = settings.label, settings.multi_label
        self._number = {name: number for number, name in enumerate(settings.classes)}
        self.mixup = (float(settings.mixup_probability), float(settings.mixup_alpha))

    def __call__(self, record: Record) -> tuple[int, ...]:
        """Returns the numbers of the clip's classes, ascending; () for a clip without the label.

        Raises:
            LabelError: a value that is no class, or several where one is expected.
        """
        values = label_values(record.labels, self._key)
        name = f"record {record.source}/{record.id}"
        unknown = [value for value in values if value not in self._number]
        if unknown:
            raise LabelError(
                f"{name} has {self._key}={unknown[0]}, which is none of the {len(self._number)} classes of "
                "config.objectives.classification.classes; add it there, or leave the record out"
            )
        if len(values) > 1 and not self._multi_label:
            raise LabelError(
                f"{name} has {len(values)} values of the label {self._key!r} ({', '.join(values)}); for any number of "
                "classes a clip set config.objectives.classification.multi_label=True"
            )
        return tuple(sorted(self._number[value] for value in values))


def reads_captions(config: ConfigDict) -> bool:
    """Whether captions are drawn: always, but where classification is all that is trained beside the audio tower."""
    objectives = config.objectives
    return (
        objectives.classification.weight == 0 or objectives.contrastive.weight > 0 or objectives.captioning.weight > 0
    )
