"""Evaluation sets: clips, what is known about them without decoding audio, and the classes that their labels name."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Int

from slap_jax.config.rules import ConfigError
from slap_jax.data.batches.labels import label_keys, label_values
from slap_jax.data.evaluation_set import ClipFacts, EvaluationClip, Region, clip_facts
from slap_jax.data.records import split_names, split_sizes
from slap_jax.inference.prompts import ZeroShotError


class TextEncoding(Protocol):
    """Turns texts into what the embedder of the same model reads; `slap_jax.data.tokenizer.Tokenizer` is one."""

    def encode(self, text: str, max_tokens: int) -> Any:
        """Returns token ids; of models of other families the text itself."""
        ...

    def length(self, text: str) -> int:
        """Returns the number of tokens of the whole text."""
        ...


@dataclasses.dataclass(frozen=True)
class ClipSet:
    """An evaluation set.

    Attributes:
        name: key of the results.
        split: name of the split, for the record.
        clips: whole clips, in a fixed order.
        facts: the facts of each clip.
        tokenizer: tokenizer of the model.
        max_tokens: length at which captions and prompts are truncated.
        n_published: clips that the published set has; None if unknown.
    """

    name: str
    split: str
    clips: Sequence[EvaluationClip]
    facts: Sequence[ClipFacts]
    tokenizer: TextEncoding
    max_tokens: int
    n_published: int | None

    @functools.cached_property
    def samples(self) -> list[int]:
        """Length of each clip, in samples."""
        return [clip.samples for clip in self.facts]

    @functools.cached_property
    def captions(self) -> list[str]:
        """All captions, clip by clip."""
        return [caption for clip in self.facts for caption in clip.captions]

    @functools.cached_property
    def owner(self) -> Int[np.ndarray, " M"]:
        """Index of the clip of each caption."""
        return np.repeat(np.arange(len(self.facts)), [len(clip.captions) for clip in self.facts])

    @property
    def regions(self) -> list[Sequence[Region]]:
        """Timed regions of each clip."""
        return [clip.regions for clip in self.facts]

    @property
    def n_captioned(self) -> int:
        """Number of clips with captions."""
        return sum(bool(clip.captions) for clip in self.facts)

    @property
    def sources(self) -> list[str]:
        """The collections that the clips come from, sorted."""
        return sorted({clip.source for clip in self.facts if clip.source})

    @functools.cached_property
    def fingerprint(self) -> str:
        """Short hash of ids, lengths, captions and labels; results are comparable only if it is the same."""
        digest = hashlib.sha256()
        for clip in self.facts:
            entry = [clip.id, clip.samples, list(clip.captions), list(clip.labels)]
            digest.update(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()[:16]

    def encode(self, texts: Sequence[str]) -> list[Any]:
        """Returns texts in the form that the embedder reads: lists of token ids, for a `Tokenizer`."""
        return [self.tokenizer.encode(text, self.max_tokens) for text in texts]


@dataclasses.dataclass(frozen=True)
class ClassLabels:
    """The classes of the clips of a set.

    Attributes:
        key: key of the label.
        classes: Y names.
        truth: [N, Y], the classes of each clip.
        multi_label: whether a clip may have several classes; otherwise it has one, or none.
        n_published: classes that the published set has; None if unknown.
    """

    key: str
    classes: Sequence[str]
    truth: Bool[np.ndarray, "N Y"]
    multi_label: bool
    n_published: int | None = None

    @property
    def labelled(self) -> Bool[np.ndarray, " N"]:
        """Which clips have a class."""
        return np.asarray(self.truth.any(axis=1))

    @property
    def index(self) -> Int[np.ndarray, " N"]:
        """Index of the class of each clip, -1 for none; of single-label sets."""
        return np.where(self.labelled, self.truth.argmax(axis=1), -1)


def read_clip_set(
    name: str,
    clips: Sequence[EvaluationClip],
    tokenizer: TextEncoding,
    max_tokens: int,
    split: str = "",
    n_published: int | None = None,
) -> ClipSet:
    """Reads the captions and labels of clips, but not their samples.

    Args:
        name: key of the results.
        clips: in a fixed order.
        tokenizer: tokenizer of the model.
        max_tokens: length at which captions are truncated, `config.data.max_caption_tokens`.
        split: name of the split, for the record.
        n_published: clips that the published set has.

    Raises:
        ConfigError: there are no clips.
    """
    facts = list(clip_facts(clips))
    if not facts:
        raise ConfigError(f"evaluation set {name!r} holds no clips; name a split that does")
    return ClipSet(name, split, clips, facts, tokenizer, max_tokens, n_published)


def read_labels(
    data: ClipSet,
    key: str,
    *,
    multi_label: bool = False,
    other_classes: Sequence[str] = (),
    n_published: int | None = None,
) -> ClassLabels:
    """Reads the classes of the clips of a set from their labels "key=value".

    Args:
        data: the set.
        key: key of the label.
        multi_label: whether a clip may have several values of the label.
        other_classes: further classes that no clip has; the classes of the clips come first, in alphabetical order.
        n_published: classes that the published set has.

    Raises:
        ZeroShotError: no clip has the label, or a clip has several values where one is expected.
    """
    values = _label_values(data, key, multi_label)
    classes = sorted({value for several in values for value in several})
    classes += [name for name in other_classes if name not in classes]
    index = {name: number for number, name in enumerate(classes)}
    truth = np.zeros((len(values), len(classes)), bool)
    for clip, several in enumerate(values):
        truth[clip, [index[value] for value in several]] = True
    return ClassLabels(key, classes, truth, multi_label, n_published)


def label_folds(data: ClipSet, key: str, count: int = 0) -> list[str]:
    """Returns the fold of each clip, such that clips with one value of a label share a fold.

    Args:
        data: the set.
        key: key of the label.
        count: number of folds, to which the values are dealt in turn; 0 makes each value a fold.

    Raises:
        ConfigError: a clip does not have the label.
        ZeroShotError: no clip has the label, or a clip has several values.
    """
    values = _label_values(data, key, multi_label=False)
    for clip, several in zip(data.facts, values, strict=True):
        if not several:
            raise ConfigError(
                f"evaluation set {data.name!r}: clip {clip.id} has no label {key!r}, which defines the folds; prepare "
                "the data again"
            )
    index = {name: number for number, name in enumerate(sorted({value for (value,) in values}))}
    return [str(index[value] % count) if count else value for (value,) in values]


def parts_of_split(path: str, split: str) -> list[str]:
    """Returns, for each clip of `load_evaluation`, which of the joined splits it comes from."""
    sizes = split_sizes(path)
    return [name for name in split_names(path, split) for _ in range(sizes[name])]


def _label_values(data: ClipSet, key: str, multi_label: bool) -> list[list[str]]:
    """Returns the values of a label of each clip."""
    labels = [clip.labels for clip in data.facts]
    values = [label_values(clip, key) for clip in labels]
    if not any(values):
        raise ZeroShotError(
            f"evaluation set {data.name!r}: no clip has the label {key!r}; labels found: "
            f"{', '.join(label_keys(labels)) or 'none'}. Set `label` of the evaluation source to one of them, or to '' "
            "for retrieval alone"
        )
    for clip, several in zip(data.facts, values, strict=True):
        if len(several) > 1 and not multi_label:
            raise ZeroShotError(
                f"evaluation set {data.name!r}: clip {clip.id} has {len(several)} values of the label {key!r} "
                f"({', '.join(sorted(several))}); one is expected: choose a label with one value per clip, or pass "
                "--multi-label to `slap evaluate` or `slap probe`"
            )
    return values
