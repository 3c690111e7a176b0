"""An evaluation set with everything about it that does not depend on parameters."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from ml_collections import ConfigDict

from slap_jax.config.rules import ConfigError
from slap_jax.data.evaluation_set import ClipFacts, EvaluationClip, Region, clip_facts, load_evaluation
from slap_jax.data.records import split_names, split_sizes
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.evaluation.zero_shot import label_keys, true_classes, true_sets
from slap_jax.inference.prompts import DEFAULT_TEMPLATE, class_prompts, template_prompts

KINDS = ("retrieval", "zero_shot", "zero_shot_multi_label", "captioning", "probe", "frames")


@dataclasses.dataclass(frozen=True)
class ClassLabels:
    """What the clips of a set are to be recognised as.

    Attributes:
        key: of the label.
        classes: Y names.
        truth: [N], class of each clip, -1 for none; where clips have several classes, -1 throughout.
        positives: [N, Y], the classes of each clip; None where each has one.
        templates: names of the prompts; results are reported for each of them.
        words: class -> what stands for its name in the prompts, where that is something else.
    """

    key: str
    classes: Sequence[str]
    truth: Int[np.ndarray, " N"]
    positives: Bool[np.ndarray, "N Y"] | None
    templates: Sequence[str]
    words: Mapping[str, str]

    def prompts(self, template: str) -> list[str]:
        """The prompts of all classes, those of a class together."""
        return class_prompts(self.classes, template, self.words)


@dataclasses.dataclass(frozen=True)
class EvaluationTask:
    """One evaluation set, and what is measured on it.

    Attributes:
        name: key of the results.
        kinds: some of `KINDS`.
        split: which split of the data, for the record.
        clips: whole clips, in a fixed order.
        samples: length of each.
        captions: texts of all captions, clip by clip.
        owner: [M], the clip of each caption.
        regions: of each clip.
        labels: what the clips are to be recognised as; None for captions alone.
        parts: of each clip, the fold or split that it belongs to; empty where there are none.
        test_part: the one of `parts` that a probe is tested on, having learnt from the others; "" for each in turn.
        tokenizer: of the model.
        max_tokens: at which captions and prompts are cut.
        n_published: clips that the publisher's set has; None if that is not known.
        n_classes_published: classes that it has; likewise.
        fingerprint: short hash of ids, lengths, captions and labels: equal for results that may be compared.
    """

    name: str
    kinds: Sequence[str]
    split: str
    clips: Sequence[EvaluationClip]
    samples: Sequence[int]
    captions: Sequence[str]
    owner: Int[np.ndarray, " M"]
    regions: Sequence[Sequence[Region]]
    labels: ClassLabels | None
    parts: Sequence[str]
    test_part: str
    tokenizer: Tokenizer
    max_tokens: int
    n_published: int | None
    n_classes_published: int | None
    fingerprint: str

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts."""
        return [self.tokenizer.encode(text, self.max_tokens) for text in texts]


def make_task(
    name: str,
    clips: Sequence[EvaluationClip],
    tokenizer: Tokenizer,
    max_tokens: int,
    *,
    split: str = "",
    label: str = "",
    template: str | Sequence[str] = DEFAULT_TEMPLATE,
    kinds: Sequence[str] = (),
    multi_label: bool = False,
    words: Mapping[str, str] | None = None,
    other_classes: Sequence[str] = (),
    parts: Sequence[str] = (),
    folds: tuple[str, int] | None = None,
    test_part: str = "",
    n_published: int | None = None,
    n_classes_published: int | None = None,
) -> EvaluationTask:
    """Prepares clips for `evaluate`.

    Args:
        name: key of the results.
        clips: two or more with captions for retrieval, of which clips without take no part, or any with a label.
        tokenizer: of the model.
        max_tokens: at which captions are cut, `config.data.max_caption_tokens`.
        split: for the record.
        label: key of the label to classify; "" for retrieval alone.
        template: one or several; see `slap_jax.evaluation.zero_shot`.
        kinds: what to measure; by default retrieval where there are captions, and classification where `label` is set.
        multi_label: a clip may have several values of the label.
        words: class -> what stands for its name in the prompts.
        other_classes: to choose from too, though no clip of the set has them.
        parts: fold or split of each clip.
        folds: instead of `parts`, the key of a label and a number of folds: clips with one value of the label share a
            fold; 0 makes each value a fold.
        test_part: of `parts`.
        n_published: clips that the publisher's set has.
        n_classes_published: classes that it has.

    Raises:
        ConfigError: nothing can be evaluated: no clips, or neither captions nor a label.
        ZeroShotError: the label or the template cannot be used.
    """
    facts = list(clip_facts(clips))
    if not facts:
        raise ConfigError(f"evaluation set {name!r} holds no clips; name a split that does")
    captioned = sum(bool(clip.captions) for clip in facts)
    templates = (template,) if isinstance(template, str) else tuple(template)
    for each in templates:
        template_prompts(each)
    if not kinds:
        _check_captions(name, facts, captioned, label)
        of_label = ("zero_shot_multi_label" if multi_label else "zero_shot",) if label else ()
        kinds = (("retrieval",) if captioned > 1 else ()) + of_label
    _check_kinds(name, kinds, facts, captioned, label)
    return EvaluationTask(
        name=name,
        kinds=kinds,
        split=split,
        clips=clips,
        samples=[clip.samples for clip in facts],
        captions=[caption for clip in facts for caption in clip.captions],
        owner=np.repeat(np.arange(len(facts)), [len(clip.captions) for clip in facts]),
        regions=[clip.regions for clip in facts],
        labels=_labels(facts, label, multi_label, templates, words or {}, other_classes) if label else None,
        parts=_folds(name, facts, *folds) if folds else parts,
        test_part=test_part,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        n_published=n_published,
        n_classes_published=n_classes_published,
        fingerprint=_fingerprint(facts),
    )


def _labels(
    facts: Sequence[ClipFacts],
    key: str,
    multi_label: bool,
    templates: Sequence[str],
    words: Mapping[str, str],
    other_classes: Sequence[str],
) -> ClassLabels:
    labels = [clip.labels for clip in facts]
    positives = None
    if multi_label:
        classes, positives = true_sets(labels, key)
        truth = np.full(len(facts), -1)
    else:
        classes, truth = true_classes(labels, key)
        classes = [*classes, *(name for name in other_classes if name not in classes)]
    return ClassLabels(key, classes, truth, positives, templates, words)


def _folds(name: str, facts: Sequence[ClipFacts], key: str, count: int) -> list[str]:
    """The fold of each clip by its label: its value, or one of `count` folds among which the values are dealt out."""
    classes, truth = true_classes([clip.labels for clip in facts], key)
    if (truth < 0).any():
        raise ConfigError(
            f"evaluation set {name!r}: clip {facts[int(np.argmin(truth))].id} has no label {key!r}, which its folds "
            "are made of; prepare the data again"
        )
    return [classes[value] if not count else str(value % count) for value in truth]


def _check_captions(name: str, facts: Sequence[ClipFacts], captioned: int, label: str) -> None:
    """Says which part of the evaluation clips without captions cannot take part in; raises if nothing is left."""
    if captioned < 2 and not label:
        known = ", ".join(label_keys([clip.labels for clip in facts]))
        raise ConfigError(
            f"evaluation set {name!r}: {captioned} of {len(facts)} clips have captions, and retrieval needs two; for "
            f"zero-shot classification set `label` of the evaluation source to one of its label keys: "
            f"{known or 'it has none'}"
        )
    if captioned < len(facts):
        left = "only those take part in retrieval" if captioned > 1 else "it has no retrieval results"
        logging.info("evaluation set %r: %d of %d clips have captions; %s", name, captioned, len(facts), left)


def _check_kinds(name: str, kinds: Sequence[str], facts: Sequence[ClipFacts], captioned: int, label: str) -> None:
    needs = {
        "retrieval": (captioned > 1, "two clips with captions"),
        "captioning": (captioned > 0, "clips with captions"),
        "frames": (any(clip.regions for clip in facts), "clips with timed regions"),
        "zero_shot": (bool(label), "a label"),
        "zero_shot_multi_label": (bool(label), "a label"),
        "probe": (bool(label), "a label"),
    }
    for kind in kinds:
        if kind not in needs:
            raise ConfigError(f"evaluation set {name!r}: {kind!r} is nothing to measure; choose of {', '.join(KINDS)}")
        there, what = needs[kind]
        if not there:
            raise ConfigError(f"evaluation set {name!r}: {kind} needs {what}, and it has none; name another set")


def load_tasks(
    sources: ConfigDict | Mapping[str, Any],
    tokenizer: Tokenizer,
    max_tokens: int,
    template: str | Sequence[str] = DEFAULT_TEMPLATE,
    **settings: Any,
) -> list[EvaluationTask]:
    """Opens every evaluation set of a config; captions and labels are read, samples are not kept.

    Args:
        sources: name -> `source(path, split, label=...)`, as `config.data.evaluation`.
        tokenizer: of the model.
        max_tokens: `config.data.max_caption_tokens`.
        template: for zero-shot classification.
        **settings: as of `make_task`.

    Raises:
        RecordsError: data that is not prepared, or has no such split.
        ConfigError: a set of which nothing can be evaluated.
        ZeroShotError: the label or the template cannot be used.
    """
    return [
        make_task(
            name,
            load_evaluation(settings_of_set.path, settings_of_set.split),
            tokenizer,
            max_tokens,
            split=settings_of_set.split,
            label=settings_of_set.label,
            template=template,
            **settings,
        )
        for name, settings_of_set in sources.items()
    ]


def parts_of_split(path: str, split: str) -> list[str]:
    """Returns which of the joined splits each clip of `load_evaluation` is from."""
    sizes = split_sizes(path)
    return [name for name in split_names(path, split) for _ in range(sizes[name])]


def _fingerprint(facts: Sequence[ClipFacts]) -> str:
    digest = hashlib.sha256()
    for clip in facts:
        entry = [clip.id, clip.samples, list(clip.captions), list(clip.labels)]
        digest.update(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()[:16]
