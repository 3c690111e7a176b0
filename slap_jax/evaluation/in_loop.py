"""Evaluation in the training loop: the tasks of the config, the classification head, and losses on held-out clips.

`HeadEvaluation` scores the classification head of a fine-tuned model; `slap score` uses it too.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from slap_jax.config.defaults import classes_in_batch
from slap_jax.data.batches.labels import label_values
from slap_jax.data.evaluation_set import EvaluationSet, load_evaluation
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.evaluation.captioning import CaptionGenerator
from slap_jax.evaluation.class_details import multi_label_details, single_label_details, strict_predictions
from slap_jax.evaluation.embeddings import Progress
from slap_jax.evaluation.evaluate import CROP, evaluate, parse_data_argument
from slap_jax.evaluation.held_out_loss import (
    CAPTION_LOSS,
    HELD_OUT_LOSS,
    WEIGHTED_SUM,
    CaptionLoss,
    ContrastiveLoss,
    classification_loss,
)
from slap_jax.evaluation.task import EvaluationTask
from slap_jax.evaluation.zero_shot import accuracy, mean_average_precision
from slap_jax.inference.classifier import Classifier, FinetuneError, read_classifier
from slap_jax.inference.embedder import Embedder

_CLIPS_AT_ONCE = 256


class LoopEvaluation:
    """Evaluates a run while it trains; reuse it, because it holds the compiled programs."""

    def __init__(
        self,
        config: ConfigDict,
        embedder: Embedder,
        tokenizer: Tokenizer,
        tasks: Sequence[EvaluationTask],
        generator_of: Callable[[Mapping[str, Any]], CaptionGenerator | None],
        clips_per_batch: int,
    ):
        """Opens the evaluation sets; decodes no audio.

        Args:
            config: config of the run.
            embedder: embedder of the same config.
            tokenizer: tokenizer of the run.
            tasks: what to measure besides the classification head and the losses.
            generator_of: makes a caption generator of parameters; see `slap_jax.evaluation.scorer.CaptionWriter`.
            clips_per_batch: approximate number of clips in a batch of training.

        Raises:
            RecordsError, FinetuneError: see `HeadEvaluation` and `CaptionLoss`.
        """
        sets = config.data.evaluation
        self._config, self._embedder, self._tasks, self._generator_of = config, embedder, tasks, generator_of
        self._head = HeadEvaluation(config, embedder, sets) if classes_in_batch(config) else None
        by_captions = config.train.best_metric.removeprefix("-").startswith(CAPTION_LOSS + "/")
        self._captions = CaptionLoss(config, embedder, tokenizer, sets) if by_captions else None
        contrastive = config.objectives.contrastive.weight > 0
        self._contrastive = ContrastiveLoss(config, clips_per_batch) if contrastive else None

    def __call__(self, params: Mapping[str, Any], progress: Progress | None = None) -> dict[str, dict[str, Any]]:
        """Returns kind -> set -> scores, like `evaluate`, with the losses under `held_out_loss`.

        Args:
            params: parameters of the run.
            progress: called before each set and while its clips are processed.
        """
        losses: dict[str, dict[str, float]] = {}

        def on_pairs(name: str, audio: np.ndarray, text: np.ndarray, captions: Sequence[str]) -> None:
            if self._contrastive is not None:
                losses.setdefault(name, {})["contrastive"] = self._contrastive(params, audio, text, captions)

        results: dict[str, dict[str, Any]] = {}
        generator = self._generator_of(params)
        for task in self._tasks:
            if progress:
                progress(task.name, 0, len(task.data.clips))
            scores = evaluate(
                self._embedder, params["model"], [task], generator=generator, progress=progress, on_pairs=on_pairs
            )
            for kind, entries in scores.items():
                results.setdefault(kind, {}).update(entries)
        if self._head is not None:
            results["classification"] = self._head(params, progress=progress)
            for name, scores in results["classification"].items():
                if (loss := scores.pop("loss")) is not None:
                    losses.setdefault(name, {})["classification"] = loss
        if self._captions is not None:
            results[CAPTION_LOSS] = self._captions(params, progress)
            for name, scores in results[CAPTION_LOSS].items():
                losses.setdefault(name, {})["captioning"] = scores["nats_per_token"]
        results[HELD_OUT_LOSS] = {name: {**one, WEIGHTED_SUM: self._weighted_sum(one)} for name, one in losses.items()}
        return results

    def _weighted_sum(self, losses: Mapping[str, float]) -> float:
        return float(sum(self._config.objectives[name].weight * loss for name, loss in losses.items()))


@dataclasses.dataclass(frozen=True)
class _LabelledSet:
    """The clips of a split that have the label.

    Attributes:
        clips: clips of the whole split.
        indices: indices of the clips with the label.
        truth: classes of these clips; a clip of a class that training did not have has none.
        names: ids of these clips, and the values of their label.
        about: for the record.
    """

    clips: EvaluationSet
    indices: Sequence[int]
    truth: Bool[np.ndarray, "N Y"]
    names: Sequence[tuple[str, Sequence[str]]]
    about: dict[str, Any]


class HeadEvaluation:
    """Scores the classification head on evaluation sets; reuse it, because it holds the compiled programs."""

    def __init__(self, config: ConfigDict, embedder: Embedder, sets: Mapping[str, Any]):
        """Reads the labels of every set; decodes no audio.

        Args:
            config: with `objectives.classification`, of a run or an export.
            embedder: embedder of the same config.
            sets: name -> `source(path, split)`, as `config.data.evaluation`.

        Raises:
            RecordsError: the data is not prepared, or has no such split.
            FinetuneError: a set lacks the label, or has several classes per clip where one is expected.
        """
        self._classifier, self._settings = Classifier(config, embedder), config.objectives.classification
        self._sets = {name: self._read(name, settings) for name, settings in sets.items()}

    def __call__(
        self,
        params: Mapping[str, Any],
        *,
        seed: int = 0,
        resamples: int = 200,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Returns the scores of every set as JSON.

        Single-label: `accuracy` with its 95 % `interval`, `chance`, `majority`. Multi-label: `map`, the mean over
        classes of the average precision, with `interval`. Both: `n` clips, `n_classes`, `n_unknown` (clips with a class
        that training did not have; they count as wrong, and in mAP as negatives), `loss` (see `classification_loss`),
        label, classes and split, and the details of `slap_jax.evaluation.class_details`.

        Args:
            params: parameters of a run.
            seed: seed of the bootstrap.
            resamples: number of resamples of the bootstrap, over clips.
            progress: called while clips are classified.
        """
        return {
            name: self._score(name, labelled, params, seed, resamples, progress)
            for name, labelled in self._sets.items()
        }

    def score_set(
        self, name: str, settings: Any, params: Mapping[str, Any], *, seed: int, resamples: int
    ) -> dict[str, Any]:
        """Reads and scores one more set; arguments and result are those of the constructor and of a call."""
        return self._score(name, self._read(name, settings), params, seed, resamples, None)

    def _read(self, name: str, settings: Any) -> _LabelledSet:
        head = self._classifier
        clips = load_evaluation(settings.path, settings.split)
        index = {value: number for number, value in enumerate(head.classes)}
        indices, truth, names, unknown = [], [], [], 0
        for position, clip in enumerate(clips.facts()):
            values = label_values(clip.labels, head.label)
            if not values:
                continue
            if len(values) > 1 and not head.multi_label:
                raise FinetuneError(
                    f"evaluation set {name!r}: clip {clip.id} has {len(values)} values of the label {head.label!r}, "
                    "and the model was trained for one class per clip; train with --multi-label, or leave it out"
                )
            row = np.zeros(len(head.classes), bool)
            row[[index[value] for value in values if value in index]] = True
            unknown += any(value not in index for value in values)
            indices.append(position)
            truth.append(row)
            names.append((clip.id, values))
        if not indices:
            raise FinetuneError(
                f"evaluation set {name!r} ({settings.path}, split {settings.split!r}): no clip has the label "
                f"{head.label!r}, which the model predicts"
            )
        about = {
            "n_unknown": unknown,
            "label": head.label,
            "classes": list(head.classes),
            "path": str(clips.path),
            "split": settings.split,
            "split_fingerprint": clips.fingerprint,
            "crop": CROP,
            "multi_label": head.multi_label,
        }
        return _LabelledSet(clips, indices, np.stack(truth), names, about)

    def _score(
        self,
        name: str,
        labelled: _LabelledSet,
        params: Mapping[str, Any],
        seed: int,
        resamples: int,
        progress: Progress | None,
    ) -> dict[str, Any]:
        probabilities, classes = self._probabilities(name, labelled, params, progress), self._classifier.classes
        clips = [(index, clip) for index, (clip, _) in zip(labelled.indices, labelled.names, strict=True)]
        loss = {"loss": classification_loss(probabilities, labelled.truth, self._settings)}
        if self._classifier.multi_label:
            scores = mean_average_precision(probabilities, labelled.truth, seed=seed, resamples=resamples)
            details = multi_label_details(probabilities, labelled.truth, classes, clips)
            return {**scores, **loss, **labelled.about, **details}
        truth = np.where(labelled.truth.any(axis=1), labelled.truth.argmax(axis=1), -1)
        unknown = {row: labelled.names[row][1][0] for row in np.flatnonzero(truth < 0).tolist()}
        correct = strict_predictions(probabilities, truth) == truth
        return {
            **accuracy(correct, None, seed=seed, resamples=resamples),
            **loss,
            "chance": 1.0 / len(classes),
            "majority": float(labelled.truth.mean(axis=0).max()),
            "n": len(probabilities),
            "n_classes": len(classes),
            **labelled.about,
            **single_label_details(probabilities, truth, classes, clips, unknown),
        }

    def _probabilities(
        self, name: str, labelled: _LabelledSet, params: Mapping[str, Any], progress: Progress | None
    ) -> Float[np.ndarray, "N Y"]:
        parts = []
        for start in range(0, len(labelled.indices), _CLIPS_AT_ONCE):
            if progress:
                progress(name, start, len(labelled.indices))
            indices = labelled.indices[start : start + _CLIPS_AT_ONCE]
            parts.append(self._classifier(params, [labelled.clips[index].waveform for index in indices]))
        return np.concatenate(parts)


def evaluate_classifier(
    directory: str, data: Sequence[str] = (), *, step: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Scores a fine-tuned classifier on prepared splits.

    Args:
        directory: run directory, its `best`, or an export of it.
        data: `NAME=PATH:SPLIT` each; the evaluation sets of the run by default.
        step: step of a run's checkpoint; None for the newest.
        seed: seed of the bootstrap.

    Returns:
        `{"classification": {set: scores}, "model": {"path": ..., "step": ...}}`.

    Raises:
        FinetuneError: the model has no classification head, there is no set, or a set lacks the label.
        ExportError, CheckpointError, RecordsError: a file cannot be read.
    """
    model = read_classifier(directory, step)
    sets = dict(map(parse_data_argument, data)) if data else model.config.data.get("evaluation", {})
    if not sets:
        raise FinetuneError("there is nothing to score on: name a set with --data NAME=PATH:SPLIT")
    evaluation = HeadEvaluation(model.config, Embedder(model.config), sets)
    scores = evaluation(jax.device_put(model.params), seed=seed, resamples=1_000)
    return {"classification": scores, "model": {"path": str(directory), "step": model.step}}


def score_table(results: Mapping[str, Any]) -> str:
    """Formats the results of `evaluate_classifier` as text, with chance and N for every set."""
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
