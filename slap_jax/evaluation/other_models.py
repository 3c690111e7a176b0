"""Models of other families in evaluation: the same clips, measures and form of results as for our own models."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from slap_jax.config.rules import ConfigError
from slap_jax.data.audio import SAMPLE_RATE
from slap_jax.evaluation.scorer import ModelScorer, filter_supported
from slap_jax.evaluation.task import EvaluationTask
from slap_jax.other_models.dual_encoder import DualEncoder
from slap_jax.other_models.load import is_other_model, load_other_model


def open_scorer(model: str | os.PathLike[str], step: int | None = None) -> ModelScorer:
    """Reads a model of any family for evaluation.

    Args:
        model: run directory or export, or a model of another family as for `slap_jax.other_models.load.load_model`.
        step: step of a run's checkpoint; None for the newest.

    Raises:
        ConfigError: a step is given for a model of another family.
        ExportError, CheckpointError, OtherModelError: the model cannot be read.
    """
    if not is_other_model(model):
        return ModelScorer(model, step)
    if step is not None:
        raise ConfigError(f"{os.fspath(model)} has no step {step}: only runs have several; leave out --step")
    return OtherModelScorer(load_other_model(model), os.fspath(model))


class OtherModelScorer(ModelScorer):
    """Evaluates a model that embeds sounds and texts, and nothing else."""

    def __init__(self, model: DualEncoder, path: str):
        """Wraps a model; `path` is recorded with the results."""
        self._directory, self._other = path, model
        self.config = ConfigDict({"data": {}})  # it brings no evaluation sets
        self.vocabulary = OwnTokens(model)
        self.max_tokens = model.encoder.max_tokens

    @property
    def head(self) -> None:
        """These models have no trained classification head."""
        return None

    @property
    def trained_on_pairs(self) -> bool:
        """Texts and sounds are comparable."""
        return True

    def filter_supported(self, tasks: Sequence[EvaluationTask]) -> tuple[list[EvaluationTask], dict[str, str]]:
        """Leaves out captioning and texts over time, and probes if their package is missing."""
        supported, reasons = filter_supported(tasks, decoder=False)
        for task in [task for task in supported if "frames" in task.kinds]:
            supported.remove(task)
            reasons[f"{task.name}, frames"] = f"a {self._other.encoder.family} has no features over time"
        return supported, reasons

    def _prepare(self, beam: int, extra_scores: Sequence[str]) -> tuple[Any, Any, None]:
        return OtherEmbedder(self._other), {"model": {}}, None

    def _about(self, setting: str | None) -> dict[str, Any]:
        encoder = self._other.encoder
        family, colon, rest = self._directory.partition(":")
        name = Path(rest).name if colon else Path(family).resolve().name
        about = {
            "path": self._directory,
            "name": f"{encoder.family} {name}".strip(),
            "model_id": encoder.model_id,
            "sample_rate": encoder.sample_rate,
            "trained_on": None,
        }
        return about | ({"setting": setting} if setting else {})


class OtherEmbedder:
    """The part of `slap_jax.inference.embedder.Embedder` that evaluation calls; it has no parameters and no columns."""

    per_column = 0

    def __init__(self, model: DualEncoder):
        self._model = model

    def audio(self, params: Any, waveforms: Sequence[np.ndarray], /) -> Float[np.ndarray, "N E"]:
        """Returns unit vectors of clips as records hold them; those longer than the model embeds are not cropped."""
        return self._model.embed_audio([(waveform, SAMPLE_RATE) for waveform in waveforms], allow_silence=True)

    def text(self, params: Any, captions: Sequence[str], /) -> Float[np.ndarray, "M E"]:
        """Returns unit vectors of texts, which `OwnTokens` leaves as they are; the results count those that are cut."""
        return self._model.text_vectors(captions)

    def frames(self, params: Any, waveforms: Sequence[np.ndarray], /) -> NoReturn:
        """Raises `OtherModelError`."""
        self._model.frames()

    frame_embeddings = frames


class OwnTokens:
    """Replaces a tokenizer: the model reads the texts themselves and tokenizes them."""

    def __init__(self, model: DualEncoder):
        self._length = functools.lru_cache(maxsize=None)(model.encoder.count_tokens)

    def encode(self, text: str, max_tokens: int) -> str:
        """Returns the text."""
        return text

    def length(self, text: str) -> int:
        """Returns the number of tokens of the whole text."""
        return self._length(text)
