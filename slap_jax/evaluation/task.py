"""Evaluation tasks: a set of clips, and what to measure on it.

    data = read_clip_set("esc50", load_evaluation(path, "fold1+fold2"), tokenizer, max_tokens)
    task = zero_shot_task(data, "class", ("sound",), folds=label_folds(data, "fold"))

There is one function for each measure. It takes what this measure needs, checks that the set has it, and returns the
task; a task without its captions, label or folds cannot be made.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ml_collections import ConfigDict

from slap_jax.config.rules import ConfigError
from slap_jax.data.batches.labels import label_keys
from slap_jax.data.evaluation_set import load_evaluation
from slap_jax.evaluation.clip_set import ClassLabels, ClipSet, TextEncoding, read_clip_set, read_labels
from slap_jax.inference.prompts import DEFAULT_TEMPLATE, class_prompts, template_prompts

MEASURES = ("retrieval", "zero_shot", "zero_shot_multi_label", "captioning", "frames")


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
        labels: the labels to predict.
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
    labels = read_labels(data, label, multi_label=multi_label, other_classes=other_classes, n_published=n_published)
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
    labels = read_labels(data, label, multi_label=multi_label, n_published=n_published)
    return EvaluationTask(data, (Probe(labels, parts, test_part),))


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
        logging.warning("evaluation set %r: %d of %d clips have captions; %s", data.name, captioned, clips, effect)
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
    tokenizer: TextEncoding,
    max_tokens: int,
    template: str = DEFAULT_TEMPLATE,
    measures: Sequence[str] = (),
    *,
    multi_label: bool = False,
) -> list[EvaluationTask]:
    """Opens the evaluation sets of a config: reads captions and labels, but not samples.

    Args:
        sources: name -> `source(path, split, label=...)`, as `config.data.evaluation`.
        tokenizer: tokenizer of the model.
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


def _require(data: ClipSet, measure: str, has_it: bool, need: str) -> None:
    if not has_it:
        raise ConfigError(f"evaluation set {data.name!r}: {measure} needs {need}, and it has none; name another set")
