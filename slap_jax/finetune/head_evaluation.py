"""How well a classification head does on prepared splits: top-1 accuracy, or macro mAP for several classes a clip."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from slap_jax.data.batches.labels import class_names
from slap_jax.data.evaluation_set import EvaluationClip, load_evaluation
from slap_jax.evaluation.evaluate import parse_data_argument
from slap_jax.evaluation.zero_shot import accuracy, mean_average_precision
from slap_jax.finetune.classes import FinetuneError
from slap_jax.finetune.classifier import Classifier, read_classifier
from slap_jax.inference.embedder import Embedder

_CLIPS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class _LabelledSet:
    """The clips of a split that have the label.

    Attributes:
        clips: of the whole split.
        kept: which of them have the label.
        truth: their classes; a clip of a class that training did not have has none.
        about: for the record.
    """

    clips: Sequence[EvaluationClip]
    kept: Sequence[int]
    truth: Bool[np.ndarray, "N Y"]
    about: dict[str, Any]


class HeadEvaluation:
    """Evaluates the classification head on sets of a config; keep it between calls, it holds the compiled programs."""

    def __init__(self, config: ConfigDict, embedder: Embedder, sets: Mapping[str, Any]):
        """Reads the labels of every set.

        Args:
            config: with `objectives.classification`, of a run or an export.
            embedder: of the same config.
            sets: name -> `source(path, split)`, as `config.data.evaluation`.

        Raises:
            RecordsError: data that are not prepared, or have no such split.
            FinetuneError: a set without the label, or with several classes a clip where one is expected.
        """
        self._classifier = Classifier(config, embedder)
        self._sets = {name: self._read(name, settings) for name, settings in sets.items()}

    def __call__(self, params: Mapping[str, Any], *, seed: int = 0, resamples: int = 200) -> dict[str, Any]:
        """Returns the scores of every set as JSON.

        Single-label: `accuracy` with its 95 % `interval`, `chance`, `majority`. Multi-label: `map`, the mean over
        classes of the average precision, with `interval`. Both: `n` clips, `n_classes`, `n_unknown` (clips of classes
        that training did not have; they count as wrong, and for mAP as clips of no class), label, classes and split.

        Args:
            params: of a run.
            seed: of the bootstrap.
            resamples: of the bootstrap, over clips.
        """
        return {name: self._score(one, params, seed, resamples) for name, one in self._sets.items()}

    def _read(self, name: str, settings: Any) -> _LabelledSet:
        head = self._classifier
        clips = load_evaluation(settings.path, settings.split)
        index = {value: number for number, value in enumerate(head.classes)}
        kept, truth, unknown = [], [], 0
        for position, clip in enumerate(clips):
            values = class_names(clip.labels, head.label)
            if not values:
                continue
            if len(values) > 1 and not head.multi_label:
                raise FinetuneError(
                    f"evaluation set {name!r}: clip {clip.id} has {len(values)} values of the label {head.label!r}, "
                    "and the model was trained for one class a clip"
                )
            row = np.zeros(len(head.classes), bool)
            row[[index[value] for value in values if value in index]] = True
            unknown += any(value not in index for value in values)
            kept.append(position)
            truth.append(row)
        if not kept:
            raise FinetuneError(
                f"evaluation set {name!r} ({settings.path}, split {settings.split!r}): no clip has the label "
                f"{head.label!r}, which the model predicts"
            )
        about = {
            "n_unknown": unknown,
            "label": head.label,
            "classes": list(head.classes),
            "split": settings.split,
            "split_fingerprint": clips.fingerprint,
            "crop": "none",
        }
        return _LabelledSet(clips, kept, np.stack(truth), about)

    def _score(self, one: _LabelledSet, params: Mapping[str, Any], seed: int, resamples: int) -> dict[str, Any]:
        found = self._probabilities(one, params)
        if self._classifier.multi_label:
            scores = mean_average_precision(found, one.truth, seed=seed, resamples=resamples)
            return {**scores, **one.about}
        correct = one.truth[np.arange(len(found)), found.argmax(axis=1)]
        return {
            **accuracy(correct, None, seed=seed, resamples=resamples),
            "chance": 1.0 / len(self._classifier.classes),
            "majority": float(one.truth.mean(axis=0).max()),
            "n": len(found),
            "n_classes": len(self._classifier.classes),
            **one.about,
        }

    def _probabilities(self, one: _LabelledSet, params: Mapping[str, Any]) -> Float[np.ndarray, "N Y"]:
        parts = []
        for start in range(0, len(one.kept), _CLIPS_AT_ONCE):
            waveforms = [one.clips[index].waveform for index in one.kept[start : start + _CLIPS_AT_ONCE]]
            parts.append(self._classifier(params, waveforms))
        return np.concatenate(parts)


def evaluate_classifier(
    directory: str, data: Sequence[str] = (), *, step: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Scores a classifier on prepared splits.

    Args:
        directory: run directory, its `best`, or an export of it.
        data: `NAME=PATH:SPLIT` each; the run's evaluation sets by default.
        step: of a run's checkpoint; None for the newest.
        seed: of the bootstrap.

    Returns:
        `{"classification": {set: scores}, "model": {"path": ..., "step": ...}}`.

    Raises:
        FinetuneError: a model without a classification head, nothing to score it on, or data without the label.
        ExportError, CheckpointError, RecordsError: what cannot be read.
    """
    model = read_classifier(directory, step)
    sets = dict(map(parse_data_argument, data)) if data else model.config.data.get("evaluation", {})
    if not sets:
        raise FinetuneError("nothing to score it on: name a set with --data NAME=PATH:SPLIT")
    evaluation = HeadEvaluation(model.config, Embedder(model.config), sets)
    scores = evaluation(jax.device_put(model.params), seed=seed, resamples=1_000)
    return {"classification": scores, "model": {"path": str(directory), "step": model.step}}


def score_table(results: Mapping[str, Any]) -> str:
    """Formats the results of `evaluate_classifier` as text, with chance and N beside every set."""
    lines = [f"{'classification':<24}{'clips':>7}{'classes':>9}{'':>10}{'(95 %)':>22}{'chance':>8}"]
    for name, scores in results["classification"].items():
        metric = "map" if "map" in scores else "accuracy"
        low, high = scores["interval"]
        value = f"{scores[metric]:.3f} ({low:.3f}-{high:.3f})"
        title = f"{name}, {scores['label']}"
        lines.append(
            f"{title:<24}{scores['n']:>7}{scores['n_classes']:>9}{metric:>10}{value:>22}{scores['chance']:>8.3f}"
        )
    return "\n".join(lines)
