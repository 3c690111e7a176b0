"""Evaluates the model of a run directory or an export, and records which model it was and what it was trained on."""

import functools
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from slap_jax.checkpoints.model_dir import check_shapes, exported_params, model_id
from slap_jax.checkpoints.read_model import read_model
from slap_jax.data.audio import AudioError
from slap_jax.data.records import RecordsError, open_split
from slap_jax.data.tokenizer import Tokenizer, load_tokenizer
from slap_jax.evaluation.captioning import EXTRA_SCORES, CaptionGenerator, CaptioningError, require_scorers
from slap_jax.evaluation.evaluate import evaluate
from slap_jax.evaluation.in_loop import HeadEvaluation
from slap_jax.evaluation.probe import ProbeError, require_classifier
from slap_jax.evaluation.task import EvaluationTask
from slap_jax.inference.captioner import Captioner
from slap_jax.inference.classifier import FinetuneError, has_trained_head
from slap_jax.inference.embedder import Embedder

CLASSIFICATION = "classification"  # the measure of the trained head
RESAMPLES = 1_000
_SAMPLED_RECORDS = 500  # of a training split, in which its sources are looked up


class ModelScorer:
    """A model, read once.

    Attributes:
        config: config of the run or export.
        vocabulary: its tokenizer, or what stands in its place.
        max_tokens: length at which captions and prompts are truncated.
    """

    def __init__(self, directory: str | os.PathLike[str], step: int | None = None):
        """Reads a run directory or an export.

        Args:
            directory: directory of the run or export.
            step: step of a run's checkpoint; None for the newest.

        Raises:
            ExportError, CheckpointError: see `slap_jax.checkpoints.read_model.read_model`.
        """
        self._directory = directory
        self._model = read_model(directory, step)
        self.config = self._model.config
        self.vocabulary: Any = load_tokenizer(self._model.tokenizer_path)
        self.max_tokens: int = self.config.data.max_caption_tokens

    @property
    def head(self) -> ConfigDict | None:
        """Settings of the trained classification head (`label`, `classes`, `multi_label`), or None without one."""
        return self.config.objectives.classification if has_trained_head(self._model) else None

    @property
    def trained_on_pairs(self) -> bool:
        """Whether texts and sounds are comparable: fine-tuning on labels alone leaves the text tower behind."""
        return "contrastive" in self._model.params.get("objectives", {})

    def filter_supported(self, tasks: Sequence[EvaluationTask]) -> tuple[list[EvaluationTask], dict[str, str]]:
        """Calls `filter_supported` for this model."""
        return filter_supported(tasks, has_decoder(self._model.params))

    def score(
        self,
        tasks: Sequence[EvaluationTask],
        *,
        seed: int = 0,
        beam: int = 1,
        extra_scores: Sequence[str] = (),
        missing: Mapping[str, str] | None = None,
        setting: str | None = None,
        head_sets: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Evaluates one task after the other, with a progress line if standard error is a terminal.

        Args:
            tasks: the tasks to measure.
            seed: seed of the bootstrap.
            beam: beam width of captioning.
            extra_scores: names of `slap_jax.evaluation.captioning.EXTRA_SCORES`.
            missing: sets that could not be opened -> reason, for the record.
            setting: how much of the sets the model had seen; recorded with the results.
            head_sets: name -> `source(path, split)`: sets to score the trained classification head on.

        Returns:
            The results of `evaluate`, with `model`, `bootstrap`, and `missing` if sets are missing or damaged; with
            `head_sets` also `classification`, see `slap_jax.evaluation.in_loop.HeadEvaluation`.

        Raises:
            CaptioningError: an extra score is unknown.
            ExportError: the parameters do not have the shapes that the config describes.
            AudioError, RecordsError, ProbeError, FinetuneError: nothing could be evaluated; the error is the first.
        """
        unknown = [name for name in extra_scores if name not in EXTRA_SCORES]
        if unknown:
            raise CaptioningError(f"there is no caption score {unknown[0]!r}; choose of {', '.join(EXTRA_SCORES)}")
        embedder, params, generator = self._prepare(beam, extra_scores)
        progress = _print_progress if sys.stderr.isatty() else None
        results: dict[str, Any] = {"retrieval": {}, "zero_shot": {}}
        missing, failures = dict(missing or {}), []
        for task in tasks:
            try:
                scores = evaluate(
                    embedder,
                    params["model"],
                    [task],
                    seed=seed,
                    resamples=RESAMPLES,
                    generator=generator,
                    progress=progress,
                )
            except (AudioError, RecordsError, ProbeError) as error:
                failures.append(error)
                missing[f"{task.name}, {', '.join(task.kinds)}"] = str(error)
                continue
            for kind, entries in scores.items():
                results.setdefault(kind, {}).update(entries)
        if head_sets:
            head = HeadEvaluation(self.config, embedder, {})
            entries = results[CLASSIFICATION] = {}
            for name, settings in head_sets.items():
                if progress:
                    print(f"{name}: the trained head", file=sys.stderr)
                try:
                    entries[name] = head.score_set(name, settings, params, seed=seed, resamples=RESAMPLES)
                except (AudioError, RecordsError, FinetuneError) as error:
                    failures.append(error)
                    missing[f"{name}, {CLASSIFICATION}"] = str(error)
        if failures and len(failures) == len(tasks) + len(head_sets or {}):
            raise failures[0]
        if missing:
            results["missing"] = missing
        results["bootstrap"] = {"seed": seed, "resamples": RESAMPLES, "level": 0.95}
        results["model"] = self._about(setting)
        return results

    def _prepare(self, beam: int, extra_scores: Sequence[str]) -> tuple[Any, Any, CaptionGenerator | None]:
        """Returns the embedder, its parameters on the device, and what writes captions."""
        embedder = Embedder(self.config)
        check_shapes(self._model.params["model"], embedder.abstract_params(), "model")
        params = jax.device_put(self._model.params)
        writer = CaptionWriter(embedder, self.vocabulary, self.max_tokens, beam)
        return embedder, params, writer.generator(params, extra_scores)

    def _about(self, setting: str | None) -> dict[str, Any]:
        model = self._model
        about = {
            "path": str(self._directory),
            "step": model.step,
            "model_id": model_id(self.config, exported_params(model.params), model.tokenizer_path.read_bytes()),
            "trained_on": training_collections(self.config),
        }
        return about | ({"setting": setting} if setting else {})


def plan_head(
    scorer: ModelScorer, measures: Sequence[str], sources: Mapping[str, Any]
) -> tuple[list[str] | None, dict[str, Any]]:
    """Decides what to measure of a model that may have a trained classification head.

    Without `measures`, the head is measured if there is one; retrieval and zero-shot classification are measured too
    unless the model was trained on labels alone.

    Args:
        scorer: the model.
        measures: names of the measures that were asked for, "classification" for the head; none for the default.
        sources: name -> `source(path, split, label=...)` of the evaluation sets.

    Returns:
        The other measures (empty for the default ones, None for none), and the sets to score the head on.

    Raises:
        FinetuneError: the model has no head but it was asked for, or a set names another label than that of the head.
    """
    head = scorer.head
    others = [name for name in measures if name != CLASSIFICATION]
    if CLASSIFICATION in measures and head is None:
        raise FinetuneError(
            "the model has no classification head, so there is no classification to measure; `slap finetune --task "
            "classification` trains one, and zero_shot needs none"
        )
    if head is None or (measures and CLASSIFICATION not in measures):
        return others, {}
    if measures or not scorer.trained_on_pairs:
        for name, settings in sources.items():
            if not others and settings.get("label") not in ("", None, head.label):
                raise FinetuneError(
                    f"evaluation set {name!r} names the label {settings.label!r}, and the trained head predicts "
                    f"{head.label!r}; name that one, or classify zero-shot with --measure zero_shot"
                )
        return (others or None), dict(sources)
    labelled = {name: settings for name, settings in sources.items() if settings.get("label") == head.label}
    return [], labelled


class CaptionWriter:
    """Captions clips with parameters that may change between calls; reuse it, because it holds compiled programs."""

    def __init__(self, embedder: Embedder, tokenizer: Tokenizer, max_tokens: int, beam: int = 1):
        """Sets up the program; it is compiled at the first caption.

        Args:
            embedder: embedder of the model.
            tokenizer: tokenizer of the model.
            max_tokens: caption length at which decoding stops.
            beam: beam width; 1 is greedy decoding.

        Raises:
            BeamError: `beam` is not a positive integer.
        """
        self._captioner = Captioner(embedder, max_tokens, beam)
        self._tokenizer, self._beam = tokenizer, beam

    def generator(self, params: Mapping[str, Any], extra_scores: Sequence[str] = ()) -> CaptionGenerator | None:
        """Returns the generator for `evaluate`, or None if the run has no caption decoder.

        Args:
            params: parameters of a run: `model` and, with the captioning objective, its decoder.
            extra_scores: see `CaptionGenerator`.
        """
        if not has_decoder(params):
            return None
        return CaptionGenerator(functools.partial(self._write, params), {"beam": self._beam}, extra_scores)

    def _write(self, params: Mapping[str, Any], waveforms: Sequence[np.ndarray]) -> list[str]:
        written = self._captioner(params["model"], params["objectives"]["captioning"]["decoder"], waveforms)
        # The model may have more ids than the vocabulary has pieces; the surplus ids stand for no text.
        size = self._tokenizer.vocab_size
        return [self._tokenizer.decode([token for token in tokens if token < size]) for tokens in written]


def has_decoder(params: Mapping[str, Any]) -> bool:
    """Returns whether the parameters of a run include a caption decoder."""
    return "decoder" in params.get("objectives", {}).get("captioning", {})


def filter_supported(tasks: Sequence[EvaluationTask], decoder: bool) -> tuple[list[EvaluationTask], dict[str, str]]:
    """Leaves out tasks that need a caption decoder or a package that is missing.

    Args:
        tasks: tasks of any kind.
        decoder: whether the model has a caption decoder.

    Returns:
        The supported tasks, and "NAME, KIND" -> reason for each task that was left out.
    """
    reasons: dict[str, str] = {}
    try:
        require_scorers()
    except CaptioningError as error:
        reasons["captioning"] = str(error)
    if not decoder:
        reasons["captioning"] = "the model has no caption decoder: it was trained without the captioning objective"
    try:
        require_classifier()
    except ProbeError as error:
        reasons["probe"] = str(error)
    supported = [task for task in tasks if not set(task.kinds) & set(reasons)]
    kinds = [(task.name, kind) for task in tasks for kind in task.kinds]
    return supported, {f"{name}, {kind}": reasons[kind] for name, kind in kinds if kind in reasons}


def training_collections(config: ConfigDict) -> list[str] | None:
    """Returns the `source` of the records that a run was trained on, as far as they are known.

    Args:
        config: config of a run or an export; an export does not state its training data.

    Returns:
        The sources found in a sample of the records of each training split, sorted; None if the config names no
        training data, or none of it is on this machine.
    """
    sources: set[str] = set()
    for settings in config.data.get("train", {}).values():
        try:
            records = open_split(settings.path, settings.split)
        except (ValueError, OSError):  # RecordsError among them: the data may be on another machine
            continue
        step = -(-len(records) // _SAMPLED_RECORDS)
        sources.update(records[index].source for index in range(0, len(records), step))
    return sorted(sources) or None


def _print_progress(name: str, done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{name}: {done} of {total} clips", end=end, file=sys.stderr, flush=True)
