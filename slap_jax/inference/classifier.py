"""Class probabilities from a classification head that fine-tuning trained, for clips of any length."""

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped
from ml_collections import ConfigDict

from slap_jax.checkpoints.model_dir import Export
from slap_jax.checkpoints.read_model import read_model
from slap_jax.errors import UserError
from slap_jax.inference.audio_input import Audio, as_recordings
from slap_jax.inference.bucketing import check_batch_size
from slap_jax.inference.device import choose_device
from slap_jax.inference.embedder import AudioProgram, Embedder, one_clip_rows
from slap_jax.inference.long_audio import longest_clip, mean_over_segments, outputs_per_recording, windows_of_training
from slap_jax.inference.own_process import require_own_process
from slap_jax.inference.pickled import host_params
from slap_jax.models.encoders import token_segment_ids
from slap_jax.models.slap import ClassificationHead, class_probabilities


class FinetuneError(UserError, ValueError):
    """Fine-tuning settings or data that cannot work."""


class Classifier:
    """Runs the audio tower and the classification head on whole clips, with parameters that may change between calls.

    A clip gives the same bits alone, in a list, and in any order; see `Embedder`.

    Attributes:
        label: key of the label that the head predicts.
        classes: Y names, in the order of the outputs.
        multi_label: whether a clip may have several classes; each then has an independent probability (sigmoid).
    """

    def __init__(self, config: ConfigDict, embedder: Embedder):
        """Sets up the program; it is compiled at the first call.

        Args:
            config: config of a run with the classification objective, or of its export.
            embedder: embedder of the same config; it forms the batches.
        """
        settings = config.objectives.classification
        self.label: str = settings.label
        self.classes: tuple[str, ...] = tuple(settings.classes)
        self.multi_label: bool = settings.multi_label
        self._embedder = embedder
        width = config.model.audio_encoder.width
        head = nnx.eval_shape(lambda: ClassificationHead(width, len(self.classes), rngs=nnx.Rngs(0)))
        self._head_graph, _ = nnx.split(head)
        self._program = jax.jit(self._rows, out_shardings=embedder.bucketing.output_sharding())

    def __call__(
        self, params: Mapping[str, Any], waveforms: Sequence[Shaped[np.ndarray, " n"]]
    ) -> Float[np.ndarray, "N Y"]:
        """Returns the fp32 probability of each class; every clip is one row, however long.

        Args:
            params: parameters of a run; `model` and `objectives/classification` are read.
            waveforms: mono samples at `config.audio.sample_rate`, float or int16.
        """
        outputs = self._embedder.map_audio(self.program(params), waveforms)
        return np.stack(outputs) if outputs else np.zeros((0, len(self.classes)), np.float32)

    def program(self, params: Mapping[str, Any]) -> AudioProgram:
        """Returns a program for `Embedder.stream_audio` that maps rows to the probabilities of their classes."""
        return functools.partial(self._program, params["model"], params["objectives"]["classification"]["head"])

    def _rows(
        self, params: Any, head: Any, waveform: Float[Array, "R S"], samples: Int[Array, " R"]
    ) -> Float[Array, "R Y"]:
        model = self._embedder.model(params)
        segments, columns = one_clip_rows(
            samples, waveform.shape[1] // self._embedder.per_column, self._embedder.per_column
        )
        tokens = model.audio_tokens(model.audio_patches(waveform, segments), segments, columns)
        pooled = model.audio_pooling(tokens, token_segment_ids(segments, model.freq_patches), 1)[:, 0]
        return class_probabilities(nnx.merge(self._head_graph, head)(pooled), self.multi_label)


class TrainedClassifier:
    """A classifier with its parameters: `load_classifier(dir).predict(files)`.

    Attributes:
        config: config of the run or export.
        classes: Y names.
        multi_label: whether a clip may have several classes.
    """

    def __init__(self, config: ConfigDict, params: Mapping[str, Any], device: str | None = None):
        require_own_process()
        on = None if device is None else choose_device(device)
        self.config, self._device = config, device
        self._embedder = Embedder(config, device=on)
        self._classifier = Classifier(config, self._embedder)
        self.classes, self.multi_label = self._classifier.classes, self._classifier.multi_label
        self._params = jax.device_put({"model": params["model"], "objectives": params["objectives"]}, on)

    def __reduce__(self) -> tuple[Any, ...]:
        require_own_process()
        return type(self), (self.config, host_params(self._params), self._device)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(classes={list(self.classes)}, multi_label={self.multi_label})"

    @property
    def sample_rate(self) -> int:
        """Sample rate of the model in Hz; audio of another rate is resampled to it."""
        return self.config.audio.sample_rate

    @property
    def max_seconds(self) -> float:
        """Duration in seconds of the longest clip that is classified whole; longer recordings are cut into windows."""
        return longest_clip(self.config)

    def probabilities(self, waveforms: Sequence[Shaped[np.ndarray, " n"]]) -> Float[np.ndarray, "N Y"]:
        """Returns the probabilities of the classes for samples at `sample_rate`, one row per clip."""
        return self._classifier(self._params, waveforms)

    def predict(
        self,
        clips: Audio | Iterable[Audio],
        sample_rate: int | None = None,
        *,
        batch_size: int | None = None,
        show_progress: bool = False,
        allow_silence: bool = False,
    ) -> list[dict[str, float]]:
        """Returns class -> probability for each clip, the most probable class first.

        A recording longer than the clips of training streams through overlapping windows in bounded memory; its
        probabilities are the mean over the windows, weighted by their durations.

        Args:
            clips: as for `slap_jax.inference.model.SlapModel.embed_audio`.
            sample_rate: sample rate of bare samples, in Hz.
            batch_size: as for `slap_jax.inference.model.SlapModel.embed_audio`.
            show_progress: whether to show a progress bar on standard error.
            allow_silence: whether a silent clip gets probabilities, which mean nothing, instead of an error.

        Raises:
            AudioError: a clip that cannot be read, or is silent; the message gives its index in the list.
            BatchSizeError: `batch_size` is not a positive integer.
        """
        size = check_batch_size(batch_size)
        embedder = self._embedder if size is None else self._embedder.with_batch_size(size)
        program = self._classifier.program(self._params)
        spec = windows_of_training(self.config)
        recordings = as_recordings(clips, sample_rate, allow_silence)
        results = outputs_per_recording(embedder, program, recordings, spec, show_progress)
        probabilities = [mean_over_segments(outputs) for outputs in results]
        return [{self.classes[y]: float(row[y]) for y in np.argsort(-row, kind="stable")} for row in probabilities]


def has_trained_head(model: Any) -> bool:
    """Returns whether a model (`SlapModel`, or `Export`) has a classification head, which `TrainedClassifier` runs."""
    objectives = getattr(model, "params", {}).get("objectives", {})
    return "head" in objectives.get("classification", {})


def read_classifier(directory: str | os.PathLike[str], step: int | None = None) -> Export:
    """Reads a model with a classification head.

    Args:
        directory: run directory, its `best`, or an export of it.
        step: step of a run's checkpoint; None for the newest.

    Raises:
        FinetuneError: the model has no classification head.
        ExportError, CheckpointError: there is no model, or it cannot be read.
    """
    model = read_model(directory, step)
    if not has_trained_head(model):
        raise FinetuneError(
            f"{directory} has no classification head; give a model that `slap finetune --task classification` trained, "
            "or use `slap classify`, which needs none"
        )
    return model


def load_classifier(
    directory: str | os.PathLike[str], step: int | None = None, device: str | None = None
) -> TrainedClassifier:
    """Loads a classifier that `slap finetune --task classification` trained; see `read_classifier`.

    Args:
        directory: as for `read_classifier`.
        step: as for `read_classifier`.
        device: device of JAX, such as "cpu" or "gpu:1"; None for JAX's default.

    Raises:
        DeviceError: there is no such device.
    """
    model = read_classifier(directory, step)
    return TrainedClassifier(model.config, model.params, device)
