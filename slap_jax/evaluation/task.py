"""Evaluation tasks: a set of clips, everything about it that does not depend on parameters, and what to measure on it.

    data = read_clip_set("esc50", load_evaluation(path, "fold1+fold2"), tokenizer, max_tokens)
    task = zero_shot_task(data, "class", ("sound",), folds=label_folds(data, "fold"))

There is one function for each measure. It takes what this measure needs, checks that the set has it, and returns the
task; a task without its captions, label or folds cannot be made.
"""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int
from ml_collections import ConfigDict

from slap_jax.config.rules import ConfigError
from slap_jax.data.evaluation_set import ClipFacts, EvaluationClip, Region, clip_facts, load_evaluation
from slap_jax.data.records import label_keys, split_names, split_sizes
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.evaluation.zero_shot import true_classes, true_sets
from slap_jax.inference.prompts import DEFAULT_TEMPLATE, class_prompts, template_prompts

MEASURES = ("retrieval", "zero_shot", "zero_shot_multi_label", "captioning", "frames")


@dataclasses.dataclass(frozen=True)
class ClipSet:
    """An evaluation set.

    Attributes:
        name: key of the results.
        split: name of the split, for the record.
        clips: whole clips, in a fixed order.
        facts: of each clip.
        tokenizer: of the model.
        max_tokens: length at which captions and prompts are truncated.
        n_published: clips that the published set has; None if unknown.
    """

    name: str
    split: str
    clips: Sequence[EvaluationClip]
    facts: Sequence[ClipFacts]
    tokenizer: Tokenizer
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

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of texts."""
        return [self.tokenizer.encode(text, self.max_tokens) for text in texts]


@dataclasses.dataclass(frozen=True)
class ClassLabels:
    """The classes of the clips of a set.

    Attributes:
        key: of the label.
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


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Audio-text retrieval in both directions."""

    kind: ClassVar[str] = "retrieval"


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """Zero-shot classification by the similarity of clips with prompts.

    Attributes:
        labels: the classes.
        templates: names of prompt templates; each has a result.
        words: class -> text that replaces its name in the prompts.
        folds: fold of each clip, whose accuracies are averaged; empty for one accuracy over all clips.
    """

    labels: ClassLabels
    templates: Sequence[str]
    words: Mapping[str, str]
    folds: Sequence[str]

    @property
    def kind(self) -> str:
        """Key of the results."""
        return "zero_shot_multi_label" if self.labels.multi_label else "zero_shot"

    def prompts(self, template: str) -> list[str]:
        """Returns the prompts of all classes, those of a class consecutively."""
        return class_prompts(self.labels.classes, template, self.words)


@dataclasses.dataclass(frozen=True)
class Captioning:
    """Scores of generated captions."""

    kind: ClassVar[str] = "captioning"


@dataclasses.dataclass(frozen=True)
class Probe:
    """Classifiers on frozen features.

    Attributes:
        labels: what they predict.
        parts: fold or split of each clip.
        test_part: the part to test on, after training on the others; "" tests each part in turn.
    """

    kind: ClassVar[str] = "probe"
    labels: ClassLabels
    parts: Sequence[str]
    test_part: str = ""


@dataclasses.dataclass(frozen=True)
class FrameScores:
    """Similarity of texts with the seconds that they describe."""

    kind: ClassVar[str] = "frames"


Measure = Retrieval | ZeroShot | Captioning | Probe | FrameScores


@dataclasses.dataclass(frozen=True)
class EvaluationTask:
    """An evaluation set and what to measure on it.

    Attributes:
        data: the set.
        measures: at most one of each kind.
    """

    data: ClipSet
    measures: Sequence[Measure]

    @property
    def name(self) -> str:
        """Key of the results."""
        return self.data.name

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the measures."""
        return tuple(measure.kind for measure in self.measures)


def read_clip_set(
    name: str,
    clips: Sequence[EvaluationClip],
    tokenizer: Tokenizer,
    max_tokens: int,
    split: str = "",
    n_published: int | None = None,
) -> ClipSet:
    """Reads the captions and labels of clips, but not their samples.

    Args:
        name: key of the results.
        clips: in a fixed order.
        tokenizer: of the model.
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


def retrieval_task(data: ClipSet) -> EvaluationTask:
    """Measures retrieval; clips without captions take no part.

    Raises:
        ConfigError: fewer than two clips have captions.
    """
    _require(data, "retrieval", data.n_captioned > 1, "two clips with captions")
    return EvaluationTask(data, (Retrieval(),))


def zero_shot_task(
    data: ClipSet,
    label: str,
    templates: Sequence[str] = (DEFAULT_TEMPLATE,),
    *,
    multi_label: bool = False,
    words: Mapping[str, str] | None = None,
    other_classes: Sequence[str] = (),
    folds: Sequence[str] = (),
    n_published: int | None = None,
) -> EvaluationTask:
    """Measures zero-shot classification: accuracy, or macro mAP where a clip may have several classes.

    Args:
        data: the set; clips without the label take no part in the accuracy.
        label: key of the label.
        templates: see `slap_jax.inference.prompts.template_prompts`.
        multi_label: whether a clip may have several values of the label.
        words: class -> text that replaces its name in the prompts.
        other_classes: further candidates that no clip has, for single-label sets.
        folds: fold of each clip, see `label_folds`; for single-label sets.
        n_published: classes that the published set has.

    Raises:
        ZeroShotError: a template is unknown, no clip has the label, or a clip has several values where one is expected.
    """
    for template in templates:
        template_prompts(template)
    labels = read_labels(data, label, multi_label, other_classes, n_published)
    return EvaluationTask(data, (ZeroShot(labels, tuple(templates), words or {}, folds),))


def captioning_task(data: ClipSet) -> EvaluationTask:
    """Measures captions that the model generates for the clips with captions.

    Raises:
        ConfigError: no clip has captions.
    """
    _require(data, "captioning", data.n_captioned > 0, "clips with captions")
    return EvaluationTask(data, (Captioning(),))


def probe_task(
    data: ClipSet,
    label: str,
    parts: Sequence[str],
    test_part: str = "",
    *,
    multi_label: bool = False,
    n_published: int | None = None,
) -> EvaluationTask:
    """Measures what classifiers learn from frozen features.

    Args:
        data: the set; clips without the label take no part.
        label: key of the label to predict.
        parts: fold or split of each clip, see `label_folds` and `parts_of_split`.
        test_part: the part to test on; "" tests each part in turn.
        multi_label: whether a clip may have several values of the label.
        n_published: classes that the published set has.

    Raises:
        ZeroShotError: no clip has the label, or a clip has several values where one is expected.
    """
    return EvaluationTask(data, (Probe(read_labels(data, label, multi_label, (), n_published), parts, test_part),))


def frames_task(data: ClipSet) -> EvaluationTask:
    """Measures texts over time, on the clips with timed regions.

    Raises:
        ConfigError: no clip has regions.
    """
    _require(data, "frames", any(clip.regions for clip in data.facts), "clips with timed regions")
    return EvaluationTask(data, (FrameScores(),))


def default_task(
    data: ClipSet, label: str = "", templates: Sequence[str] = (DEFAULT_TEMPLATE,), *, multi_label: bool = False
) -> EvaluationTask:
    """Measures retrieval if at least two clips have captions, and zero-shot classification if `label` is not empty.

    Args:
        data: the set.
        label: key of the label to classify, or "".
        templates: as for `zero_shot_task`.
        multi_label: as for `zero_shot_task`.

    Raises:
        ConfigError: neither can be measured.
        ZeroShotError: see `zero_shot_task`.
    """
    captioned, clips = data.n_captioned, len(data.facts)
    if captioned < 2 and not label:
        known = ", ".join(label_keys(clip.labels for clip in data.facts))
        raise ConfigError(
            f"evaluation set {data.name!r}: {captioned} of {clips} clips have captions, and retrieval needs two; for "
            f"zero-shot classification set `label` of the evaluation source to one of its label keys: "
            f"{known or 'it has none'}"
        )
    if captioned < clips:
        effect = "only those take part in retrieval" if captioned > 1 else "it has no retrieval results"
        logging.info("evaluation set %r: %d of %d clips have captions; %s", data.name, captioned, clips, effect)
    tasks = [retrieval_task(data)] if captioned > 1 else []
    if label:
        tasks.append(zero_shot_task(data, label, templates, multi_label=multi_label))
    return EvaluationTask(data, tuple(measure for task in tasks for measure in task.measures))


def named_task(
    data: ClipSet,
    names: Sequence[str],
    label: str = "",
    templates: Sequence[str] = (DEFAULT_TEMPLATE,),
    *,
    multi_label: bool = False,
) -> EvaluationTask:
    """Measures what the names say, as `slap evaluate --measure` does.

    Args:
        data: the set.
        names: some of `MEASURES`; "zero_shot_multi_label" is "zero_shot" with `multi_label`.
        label: key of the label to classify, or "".
        templates: as for `zero_shot_task`.
        multi_label: as for `zero_shot_task`.

    Raises:
        ConfigError: a name is unknown, or the set lacks what its measure needs.
        ZeroShotError: see `zero_shot_task`.
    """
    measures: dict[str, Measure] = {}
    for name in names:
        if name not in MEASURES:
            advice = "; `slap probe` trains probes" if name == "probe" else ""
            raise ConfigError(f"{name!r} is not a measure; choose of {', '.join(MEASURES)}{advice}")
        if name.startswith("zero_shot"):
            _require(data, name, bool(label), "the key of a label (NAME=PATH:SPLIT:LABEL)")
            several = multi_label or name == "zero_shot_multi_label"
            task = zero_shot_task(data, label, templates, multi_label=several)
        else:
            task = {"retrieval": retrieval_task, "captioning": captioning_task, "frames": frames_task}[name](data)
        measures |= {measure.kind: measure for measure in task.measures}
    return EvaluationTask(data, tuple(measures.values()))


def load_tasks(
    sources: ConfigDict | Mapping[str, Any],
    tokenizer: Tokenizer,
    max_tokens: int,
    template: str = DEFAULT_TEMPLATE,
    measures: Sequence[str] = (),
    *,
    multi_label: bool = False,
) -> list[EvaluationTask]:
    """Opens the evaluation sets of a config: reads captions and labels, but not samples.

    Args:
        sources: name -> `source(path, split, label=...)`, as `config.data.evaluation`.
        tokenizer: of the model.
        max_tokens: `config.data.max_caption_tokens`.
        template: for zero-shot classification.
        measures: some of `MEASURES`; none for those of `default_task`.
        multi_label: whether a clip may have several values of the label.

    Raises:
        RecordsError: the data is not prepared, or has no such split.
        ConfigError, ZeroShotError: see `default_task` and `named_task`.
    """
    tasks = []
    for name, settings in sources.items():
        clips = load_evaluation(settings.path, settings.split)
        data = read_clip_set(name, clips, tokenizer, max_tokens, settings.split)
        if measures:
            task = named_task(data, measures, settings.label, (template,), multi_label=multi_label)
        else:
            task = default_task(data, settings.label, (template,), multi_label=multi_label)
        tasks.append(task)
    return tasks


def label_folds(data: ClipSet, key: str, count: int = 0) -> list[str]:
    """Returns the fold of each clip, such that clips with one value of a label share a fold.

    Args:
        data: the set.
        key: of the label.
        count: number of folds, to which the values are dealt in turn; 0 makes each value a fold.

    Raises:
        ConfigError: a clip does not have the label.
        ZeroShotError: no clip has the label, or a clip has several values.
    """
    values, index = true_classes([clip.labels for clip in data.facts], key)
    if (index < 0).any():
        raise ConfigError(
            f"evaluation set {data.name!r}: clip {data.facts[int(np.argmin(index))].id} has no label {key!r}, which "
            "defines the folds; prepare the data again"
        )
    return [str(value % count) if count else values[value] for value in index]


def parts_of_split(path: str, split: str) -> list[str]:
    """Returns, for each clip of `load_evaluation`, which of the joined splits it comes from."""
    sizes = split_sizes(path)
    return [name for name in split_names(path, split) for _ in range(sizes[name])]


def read_labels(
    data: ClipSet, key: str, multi_label: bool, other_classes: Sequence[str] = (), n_published: int | None = None
) -> ClassLabels:
    """Reads the classes of the clips of a set; the arguments are those of `zero_shot_task`."""
    labels = [clip.labels for clip in data.facts]
    if multi_label:
        classes, truth = true_sets(labels, key)
    else:
        classes, index = true_classes(labels, key)
        classes = [*classes, *(name for name in other_classes if name not in classes)]
        truth = index[:, None] == np.arange(len(classes))
    return ClassLabels(key, classes, truth, multi_label, n_published)


def _require(data: ClipSet, measure: str, has_it: bool, need: str) -> None:
    if not has_it:
        raise ConfigError(f"evaluation set {data.name!r}: {measure} needs {need}, and it has none; name another set")
