"""Evaluation in the training loop beyond retrieval and zero-shot classification: classification head, caption loss.

`HeadEvaluation` scores the classification head of a fine-tuned model; `slap score` uses it too. `CaptionLoss` is the
likelihood of held-out captions, a cheap metric for choosing the best step of captioning. Scores of generated captions
(`slap evaluate --measure captioning`) say more, but take far longer.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.config.defaults import classes_in_batch, samples_per_column
from slap_jax.data.batches.labels import label_values
from slap_jax.data.evaluation_set import EvaluationSet, load_evaluation
from slap_jax.data.packing import Clip, pack_rows
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.evaluation.class_details import multi_label_details, single_label_details, strict_predictions
from slap_jax.evaluation.evaluate import CROP, parse_data_argument
from slap_jax.evaluation.zero_shot import accuracy, mean_average_precision
from slap_jax.inference.classifier import Classifier, FinetuneError, read_classifier
from slap_jax.inference.embedder import Embedder
from slap_jax.models.caption_decoder import CaptionDecoder
from slap_jax.models.encoders import token_segment_ids
from slap_jax.objectives.captioning import next_tokens, token_losses

CAPTION_LOSS = "caption_loss"
_CLIPS_AT_ONCE = 256


class LoopEvaluation:
    """Evaluates the classification head, if there is one, and the caption loss, if it chooses the best step."""

    def __init__(self, config: ConfigDict, embedder: Embedder, tokenizer: Tokenizer):
        """Opens the evaluation sets; decodes no audio.

        Args:
            config: config of the run.
            embedder: embedder of the same config.
            tokenizer: tokenizer of the run.

        Raises:
            RecordsError, FinetuneError: see `HeadEvaluation` and `CaptionLoss`.
        """
        sets = config.data.evaluation
        self._head = HeadEvaluation(config, embedder, sets) if classes_in_batch(config) else None
        by_captions = config.train.best_metric.removeprefix("-").startswith(CAPTION_LOSS + "/")
        self._captions = CaptionLoss(config, embedder, tokenizer, sets) if by_captions else None

    def __call__(self, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Returns kind -> set -> scores, like `evaluate`; `params` are those of the run."""
        results = {}
        if self._head is not None:
            results["classification"] = self._head(params)
        if self._captions is not None:
            results[CAPTION_LOSS] = self._captions(params)
        return results


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
        self._classifier = Classifier(config, embedder)
        self._sets = {name: self._read(name, settings) for name, settings in sets.items()}

    def __call__(self, params: Mapping[str, Any], *, seed: int = 0, resamples: int = 200) -> dict[str, Any]:
        """Returns the scores of every set as JSON.

        Single-label: `accuracy` with its 95 % `interval`, `chance`, `majority`. Multi-label: `map`, the mean over
        classes of the average precision, with `interval`. Both: `n` clips, `n_classes`, `n_unknown` (clips with a class
        that training did not have; they count as wrong, and in mAP as negatives), label, classes and split, and the
        details of `slap_jax.evaluation.class_details`.

        Args:
            params: parameters of a run.
            seed: seed of the bootstrap.
            resamples: number of resamples of the bootstrap, over clips.
        """
        return {name: self._score(labelled, params, seed, resamples) for name, labelled in self._sets.items()}

    def score_set(
        self, name: str, settings: Any, params: Mapping[str, Any], *, seed: int, resamples: int
    ) -> dict[str, Any]:
        """Reads and scores one more set; arguments and result are those of the constructor and of a call."""
        return self._score(self._read(name, settings), params, seed, resamples)

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

    def _score(self, labelled: _LabelledSet, params: Mapping[str, Any], seed: int, resamples: int) -> dict[str, Any]:
        probabilities, classes = self._probabilities(labelled, params), self._classifier.classes
        clips = [(index, name) for index, (name, _) in zip(labelled.indices, labelled.names, strict=True)]
        if self._classifier.multi_label:
            scores = mean_average_precision(probabilities, labelled.truth, seed=seed, resamples=resamples)
            details = multi_label_details(probabilities, labelled.truth, classes, clips)
            return {**scores, **labelled.about, **details}
        truth = np.where(labelled.truth.any(axis=1), labelled.truth.argmax(axis=1), -1)
        unknown = {row: labelled.names[row][1][0] for row in np.flatnonzero(truth < 0).tolist()}
        correct = strict_predictions(probabilities, truth) == truth
        return {
            **accuracy(correct, None, seed=seed, resamples=resamples),
            "chance": 1.0 / len(classes),
            "majority": float(labelled.truth.mean(axis=0).max()),
            "n": len(probabilities),
            "n_classes": len(classes),
            **labelled.about,
            **single_label_details(probabilities, truth, classes, clips, unknown),
        }

    def _probabilities(self, labelled: _LabelledSet, params: Mapping[str, Any]) -> Float[np.ndarray, "N Y"]:
        parts = []
        for start in range(0, len(labelled.indices), _CLIPS_AT_ONCE):
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


class CaptionLoss:
    """Cross-entropy of the first caption of every clip, with teacher forcing; clips are cut at `data.max_seconds`.

    Reuse it, because it holds the compiled program.
    """

    def __init__(self, config: ConfigDict, embedder: Embedder, tokenizer: Tokenizer, sets: Mapping[str, Any]):
        """Opens the sets; decodes no audio.

        Args:
            config: config of a run with the captioning objective.
            embedder: embedder of the same config; it places the batches.
            tokenizer: tokenizer of the model.
            sets: name -> `source(path, split)`, as `config.data.evaluation`.

        Raises:
            RecordsError: the data is not prepared, or has no such split.
            FinetuneError: a set has no captions.
        """
        self._config, self._embedder, self._tokenizer = config, embedder, tokenizer
        self._sets = {name: load_evaluation(settings.path, settings.split) for name, settings in sets.items()}
        for name, clips in self._sets.items():
            if not any(facts.captions for facts in clips.facts()):
                raise FinetuneError(f"evaluation set {name!r} ({clips.path}, split {clips.split!r}) has no captions")
        self._graph, _ = nnx.split(nnx.eval_shape(self._decoder))
        self._program = jax.jit(self._rows, out_shardings=embedder.bucketing.output_sharding())

    def __call__(self, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Returns set -> `nats_per_token`, `token_accuracy` and `n_tokens`; `params` are those of a run."""
        decoder = params["objectives"]["captioning"]["decoder"]
        mesh = self._embedder.bucketing.mesh
        results = {}
        with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            for name, clips in self._sets.items():
                total = np.zeros(3)
                for batch in self._batches(clips):
                    placed = jax.tree.map(self._embedder.bucketing.place, batch)
                    total += np.asarray(self._program(params["model"], decoder, placed), np.float64)
                losses, correct, count = total
                results[name] = {
                    "nats_per_token": float(losses / count),
                    "token_accuracy": float(correct / count),
                    "n_tokens": int(count),
                }
        return results

    def _decoder(self) -> CaptionDecoder:
        model = self._config.model
        return CaptionDecoder(model, model.audio_encoder.width, rngs=nnx.Rngs(0))

    def _batches(self, clips: EvaluationSet) -> Iterator[PackedBatch]:
        """Packs the captioned clips into batches of the shape of training; surplus rows are empty."""
        data, per_column = self._config.data, samples_per_column(self._config.audio)
        longest = round(data.max_seconds * self._config.audio.sample_rate)
        shape = (data.columns, data.slots, data.text_tokens, per_column)
        for start in range(0, len(clips), _CLIPS_AT_ONCE):
            captioned = [clip for clip in clips[start : start + _CLIPS_AT_ONCE] if clip.captions]
            packed = [
                Clip(
                    clip.waveform[:longest], self._tokenizer.encode(clip.captions[0], data.max_caption_tokens), clip.key
                )
                for clip in captioned
            ]
            if not packed:
                continue
            needed = pack_rows(packed, *shape)[0].clip_valid.shape[0]
            rows = -(-needed // data.rows) * data.rows
            batch, _ = pack_rows(packed, *shape, rows=rows)
            for row in range(0, rows, data.rows):
                yield jax.tree.map(lambda array, row=row: array[row : row + data.rows], batch)

    def _rows(self, params: Any, decoder_params: Any, batch: PackedBatch) -> Float[Array, "3"]:
        """Returns sums over the rows: token losses, correctly predicted tokens, tokens."""
        model, decoder = self._embedder.model(params), nnx.merge(self._graph, decoder_params)
        patches = model.audio_patches(batch.waveform, batch.audio_segment_ids)
        memory = model.audio_tokens(patches, batch.audio_segment_ids, batch.audio_positions)
        memory_segment_ids = token_segment_ids(batch.audio_segment_ids, self._embedder.patches)
        hidden = decoder(batch.text_tokens, batch.text_segment_ids, batch.text_positions, memory, memory_segment_ids)
        targets, is_token = next_tokens(batch.text_tokens, batch.text_segment_ids)
        chunk = self._config.objectives.captioning.vocabulary_chunk
        losses, correct = token_losses(hidden, decoder.embedding.table[...], targets, is_token, chunk)
        sums = (jnp.where(is_token, losses, 0.0), is_token & correct, is_token)
        return jnp.stack([jnp.sum(value, dtype=jnp.float32) for value in sums])
