"""A fine-tuned classifier in use: probabilities of its classes for clips of any length."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped
from ml_collections import ConfigDict

from slap_jax.checkpoints.model_dir import Export
from slap_jax.checkpoints.read_model import read_model
from slap_jax.errors import UserError
from slap_jax.inference.audio_input import Audio, read_audio
from slap_jax.inference.embedder import Embedder, one_clip_rows
from slap_jax.models.encoders import token_segment_ids
from slap_jax.models.slap import ClassificationHead, class_probabilities


class Classifier:
    """Runs the audio tower and the classification head on whole clips.

    The same clip gives the same bits alone, in a list, and in any order; see `Embedder`.

    Attributes:
        label: key of the label that is predicted.
        classes: Y names, in the order of the outputs.
        multi_label: whether the probabilities are of each class by itself.
    """

    def __init__(self, config: ConfigDict, embedder: Embedder):
        """Prepares; nothing is compiled before the first call.

        Args:
            config: of a run with the classification objective, or of its export.
            embedder: of the same config; says how rows are formed and where they run.
        """
        settings = config.objectives.classification
        self.label: str = settings.label
        self.classes: tuple[str, ...] = tuple(settings.classes)
        self.multi_label: bool = settings.multi_label
        self._embedder = embedder
        width = config.model.audio_encoder.width
        head = nnx.eval_shape(lambda: ClassificationHead(width, len(self.classes), rngs=nnx.Rngs(0)))
        self._head_graph, _ = nnx.split(head)
        self._program = jax.jit(self._rows, out_shardings=embedder.rows.output_sharding())

    def __call__(
        self, params: Mapping[str, Any], waveforms: Sequence[Shaped[np.ndarray, " n"]]
    ) -> Float[np.ndarray, "N Y"]:
        """Returns the probability of each class, fp32.

        Args:
            params: of a run: `model` and `objectives/classification` are read.
            waveforms: mono samples at `config.audio.sample_rate`, float or int16.
        """
        head = params["objectives"]["classification"]["head"]
        program = functools.partial(self._program, params["model"], head)
        outputs = self._embedder.map_audio(program, waveforms)
        return np.stack(outputs) if outputs else np.zeros((0, len(self.classes)), np.float32)

    def _rows(
        self, params: Any, head: Any, waveform: Float[Array, "R S"], samples: Int[Array, " R"]
    ) -> Float[Array, "R Y"]:
        model = self._embedder.model(params)
        segments, columns = one_clip_rows(
            samples, waveform.shape[1] // self._embedder.per_column, self._embedder.per_column
        )
        tokens = model.audio_tokens(model.audio_patches(waveform, segments), segments, columns)
        pooled = model.audio_pooling(tokens, token_segment_ids(segments, model.patches), 1)[:, 0]
        return class_probabilities(nnx.merge(self._head_graph, head)(pooled), self.multi_label)


class TrainedClassifier:
    """A classifier with its parameters: `load_classifier(dir).predict(files)`.

    Attributes:
        classes: names of the classes.
        multi_label: whether a clip may have several.
    """

    def __init__(self, config: ConfigDict, params: Mapping[str, Any]):
        """Takes a model that is in memory."""
        self.config = config
        self._classifier = Classifier(config, Embedder(config))
        self.classes, self.multi_label = self._classifier.classes, self._classifier.multi_label
        self._params = jax.device_put({"model": params["model"], "objectives": params["objectives"]})

    def probabilities(self, waveforms: Sequence[Shaped[np.ndarray, " n"]]) -> Float[np.ndarray, "N Y"]:
        """Returns the probability of each class for samples at `config.audio.sample_rate`."""
        return self._classifier(self._params, waveforms)

    def predict(self, clips: Sequence[Audio]) -> list[dict[str, float]]:
        """Returns for each clip class -> probability, the most probable first.

        Args:
            clips: paths, the bytes of files, or pairs (samples, sample rate).

        Raises:
            AudioError: a file that is missing or is no audio.
        """
        rate = self.config.audio.sample_rate
        found = self.probabilities([read_audio(clip, rate) for clip in clips])
        return [{self.classes[y]: float(row[y]) for y in np.argsort(-row, kind="stable")} for row in found]


def read_classifier(directory: str | os.PathLike[str], step: int | None = None) -> Export:
    """Reads a model that has a classification head.

    Args:
        directory: run directory, its `best`, or an export of it.
        step: of a run's checkpoint; None for the newest.

    Raises:
        FinetuneError: a model without one.
        ExportError, CheckpointError: no model, or one that cannot be read.
    """
    model = read_model(directory, step)
    if "head" not in model.params.get("objectives", {}).get("classification", {}):
        raise FinetuneError(
            f"{directory} has no classification head; give a model that `slap finetune --task classification` trained, "
            "or use `slap classify`, which needs none"
        )
    return model


def load_classifier(directory: str | os.PathLike[str], step: int | None = None) -> TrainedClassifier:
    """Reads a classifier that `slap finetune --task classification` trained; see `read_classifier`."""
    model = read_classifier(directory, step)
    return TrainedClassifier(model.config, model.params)


class FinetuneError(UserError, ValueError):
    """A fine-tuning that cannot work; the message says what was found and what to give instead."""
