"""Which caption a clip gets this time: one of its own, or one made from its labels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slap_jax.data.records import Record


class CaptionError(ValueError):
    """A record from which no caption can be had; the message says what to write."""


@dataclasses.dataclass(frozen=True)
class CaptionPolicy:
    """`config.data.train.NAME.captions` as plain values, whose defaults are in `slap_jax.config_source`.

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
        key, is_pair, value = label.partition("=")
        if not is_pair or not keys or key in keys:
            texts.append((value if is_pair else key).replace("_", " ").strip())
    return list(dict.fromkeys(filter(None, texts)))


def tag_caption(tags: Sequence[str], templates: Sequence[str], generator: np.random.Generator) -> str:
    """Puts tags in random order into a random template: "the sound of rain, wind and thunder"."""
    template = templates[int(generator.integers(len(templates)))]
    shuffled = [tags[int(index)] for index in generator.permutation(len(tags))]
    listed = " and ".join(filter(None, [", ".join(shuffled[:-1]), shuffled[-1]]))
    return template.replace("{}", listed)
