"""Evaluates the model of a run directory or an export, and records which model it was.

Writes captions for evaluation with the decoder of a run, whose parameters may change between calls.

Which tasks this model and this installation cannot do.
"""

import functools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from slap_jax.checkpoints.model_dir import exported_params, model_id
from slap_jax.checkpoints.read_model import read_model
from slap_jax.data.audio import AudioError
from slap_jax.data.records import RecordsError
from slap_jax.data.tokenizer import Tokenizer, load_tokenizer
from slap_jax.evaluation.captioning import EXTRA_SCORES, CaptioningError, Captions, require_scorers
from slap_jax.evaluation.evaluate import evaluate
from slap_jax.evaluation.probe import ProbeError, require_classifier
from slap_jax.evaluation.task import EvaluationTask
from slap_jax.inference.captioner import Captioner
from slap_jax.inference.embedder import Embedder

RESAMPLES = 1_000


class ModelScorer:
    """A model, read once.

    Attributes:
        config: of the run, or of the export.
        vocabulary: its tokenizer.
        max_tokens: at which captions and prompts are cut.
    """

    def __init__(self, directory: str | os.PathLike[str], step: int | None = None):
        """Reads a run directory or an export.

        Raises:
            ExportError, CheckpointError: see `slap_jax.checkpoints.read_model.read_model`.
        """
        self._directory = directory
        self._model = read_model(directory, step)
        self.config = self._model.config
        self.vocabulary = load_tokenizer(self._model.tokenizer_path)
        self.max_tokens: int = self.config.data.max_caption_tokens

    def able(self, tasks: Sequence[EvaluationTask]) -> tuple[list[EvaluationTask], dict[str, str]]:
        """Leaves out tasks that this model or this installation cannot do.

        Returns:
            The others, and "NAME, KIND" -> why of those that were left out.
        """
        return able(tasks, has_decoder(self._model.params))

    def score(
        self,
        tasks: Sequence[EvaluationTask],
        *,
        seed: int = 0,
        beam: int = 1,
        extra_scores: Sequence[str] = (),
        missing: Mapping[str, str] | None = None,
        setting: str | None = None,
    ) -> dict[str, Any]:
        """Evaluates one task after the other; tells of its progress where a person watches.

        Args:
            tasks: what to measure.
            seed: of the bootstrap.
            beam: hypotheses that captioning keeps.
            extra_scores: names of `slap_jax.evaluation.captioning.EXTRA_SCORES`.
            missing: sets that could not be evaluated, for the record.
            setting: what the model knew of the sets, for the record.

        Returns:
            The results of `evaluate`, with `model`, `bootstrap`, and `missing` where sets are or turn out damaged.

        Raises:
            CaptioningError: an unknown score.
            AudioError, RecordsError, ProbeError: if that keeps every task from being evaluated.
        """
        unknown = [name for name in extra_scores if name not in EXTRA_SCORES]
        if unknown:
            raise CaptioningError(f"there is no score {unknown[0]!r} of captions; choose of {', '.join(EXTRA_SCORES)}")
        embedder, params = Embedder(self.config), jax.device_put(self._model.params)
        captions = CaptionWriter(embedder, self.vocabulary, self.max_tokens, beam).captions(params, extra_scores)
        settings = {"captions": captions, "progress": _progress if sys.stderr.isatty() else None}
        results: dict[str, Any] = {"retrieval": {}, "zero_shot": {}}
        missing, failures = dict(missing or {}), []
        for task in tasks:
            try:
                found = evaluate(embedder, params["model"], [task], seed=seed, resamples=RESAMPLES, **settings)
            except (AudioError, RecordsError, ProbeError) as error:
                failures.append(error)
                missing[f"{task.name}, {', '.join(task.kinds)}"] = str(error)
                continue
            for kind, entries in found.items():
                results.setdefault(kind, {}).update(entries)
        if len(failures) == len(tasks):
            raise failures[0]
        if missing:
            results["missing"] = missing
        results["bootstrap"] = {"seed": seed, "resamples": RESAMPLES, "level": 0.95}
        results["model"] = self._about(setting)
        return results

    def _about(self, setting: str | None) -> dict[str, Any]:
        model = self._model
        train = self.config.data.get("train")
        about = {
            "path": str(self._directory),
            "step": model.step,
            "model_id": model_id(self.config, exported_params(model.params), str(model.tokenizer_path)),
            # An export does not tell what it was trained on.
            "trained_on": None if train is None else sorted({Path(part.path).name for part in train.values()}),
        }
        return about | ({"setting": setting} if setting else {})


def _progress(name: str, done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{name}: {done} of {total} clips", end=end, file=sys.stderr, flush=True)


class CaptionWriter:
    """Keep it between calls, it holds the compiled programs."""

    def __init__(self, embedder: Embedder, tokenizer: Tokenizer, max_tokens: int, beam: int = 1):
        """Prepares; nothing is compiled before the first caption.

        Args:
            embedder: of the model.
            tokenizer: of the model.
            max_tokens: at which a caption ends.
            beam: hypotheses kept; 1 is greedy decoding.

        Raises:
            CaptionError: a beam that is not a positive integer.
        """
        self._captioner = Captioner(embedder, max_tokens, beam)
        self._tokenizer, self._beam = tokenizer, beam

    def captions(self, params: Mapping[str, Any], extra_scores: Sequence[str] = ()) -> Captions | None:
        """What `evaluate` wants.

        Args:
            params: of a run: `model` and, with the captioning objective, its decoder.
            extra_scores: see `Captions`.

        Returns:
            None where the run has no decoder.
        """
        if not has_decoder(params):
            return None
        return Captions(functools.partial(self._write, params), {"beam": self._beam}, extra_scores)

    def _write(self, params: Mapping[str, Any], waveforms: Sequence[np.ndarray]) -> list[str]:
        written = self._captioner(params["model"], params["objectives"]["captioning"]["decoder"], waveforms)
        # A model may have more ids than its vocabulary has pieces; the surplus ones spell nothing.
        size = self._tokenizer.vocab_size
        return [self._tokenizer.decode([token for token in tokens if token < size]) for tokens in written]


def has_decoder(params: Mapping[str, Any]) -> bool:
    """Whether a run's parameters have a caption decoder."""
    return "decoder" in params.get("objectives", {}).get("captioning", {})


def able(tasks: Sequence[EvaluationTask], decoder: bool) -> tuple[list[EvaluationTask], dict[str, str]]:
    """Leaves out what needs a caption decoder or a package that is not there.

    Args:
        tasks: of any kind.
        decoder: whether the model writes captions.

    Returns:
        The others, and "NAME, KIND" -> why of those that were left out.
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
    left = [task for task in tasks if not set(task.kinds) & set(reasons)]
    return left, {f"{task.name}, {kind}": reasons[kind] for task in tasks for kind in task.kinds if kind in reasons}
