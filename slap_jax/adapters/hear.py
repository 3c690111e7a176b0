"""The HEAR 2021 interface (Turian et al. 2022, arXiv 2203.03022): scene and timestamp embeddings.

    python -m heareval.embeddings.runner slap_jax.adapters.hear --model EXPORT_DIRECTORY --tasks-dir TASKS

A scene embedding is the model's unit vector of the whole clip. Timestamp embeddings are its dense features, one for
each column of 160 ms; HEAR recommends a hop of at most 50 ms for its event tasks, which this model does not have.

An audio encoder for X-ARES (Zhang et al. 2025, arXiv 2505.16369): audio [B, T] to dense features [B, T', D].

A file of one's own names the export and hands X-ARES the encoder:

    from slap_jax.adapters.hear import encoder

    SlapEncoder = lambda: encoder("EXPORT_DIRECTORY")

Batches of equally long clips, as benchmarks hand them over, through a model that takes clips one by one.
"""

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped

from slap_jax.errors import UserError
from slap_jax.inference.model import SlapModel

if TYPE_CHECKING:
    import torch

    from slap_jax.inference.model import SlapModel

if TYPE_CHECKING:
    import torch

    from slap_jax.inference.model import SlapModel


_NAME = "HEAR"


def load_model(model_file_path: str = "") -> "torch.nn.Module":
    """Loads an export.

    Args:
        model_file_path: the export directory.

    Returns:
        A module with `sample_rate`, `scene_embedding_size` and `timestamp_embedding_size`. It has no parameters: the
        model runs in JAX, on JAX's device.

    Raises:
        AdapterError: PyTorch is missing.
        ExportError: not an export.
    """
    require_torch(_NAME)
    import torch

    from slap_jax.inference.model import SlapModel

    class HearModel(torch.nn.Module):
        """Holds the model, which is not PyTorch's."""

        def __init__(self, model: "SlapModel"):
            super().__init__()
            self.model = model
            self.sample_rate = int(model.config.audio.sample_rate)
            self.scene_embedding_size = int(model.embed_dim)
            self.timestamp_embedding_size = int(model.config.model.audio_encoder.width)

    return HearModel(SlapModel.load(model_file_path))


def get_scene_embeddings(audio: "torch.Tensor", model: Any) -> "torch.Tensor":
    """Returns unit vectors [n_sounds, E] of audio [n_sounds, n_samples] in [-1, 1] at `model.sample_rate`."""
    import torch

    clips = list(batch_samples(audio, _NAME))
    vectors = model.model.embed_audio(clips, sample_rate=model.sample_rate)
    return torch.from_numpy(np.ascontiguousarray(vectors)).to(audio.device)


def get_timestamp_embeddings(audio: "torch.Tensor", model: Any) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Returns dense features and where they are.

    Args:
        audio: [n_sounds, n_samples] in [-1, 1] at `model.sample_rate`.
        model: that `load_model` returned.

    Returns:
        Features [n_sounds, n_timestamps, D], and the centres of their columns [n_sounds, n_timestamps] in milliseconds.
    """
    import torch

    features = dense_features(model.model, batch_samples(audio, _NAME))
    column = column_milliseconds(model.model)
    centres = (np.arange(features.shape[1], dtype=np.float32) + 0.5) * column
    timestamps = np.tile(centres, (len(features), 1))
    return torch.from_numpy(features).to(audio.device), torch.from_numpy(timestamps).to(audio.device)


def encoder(directory: str) -> "torch.nn.Module":
    """Loads an export as an encoder.

    Args:
        directory: the export.

    Returns:
        A module with `sampling_rate`, `output_dim` and `hop_size_in_ms`, whose forward pass takes audio [B, T] (or [T])
        in [-1, 1] of any duration and gives dense features [B, T', output_dim], one for each 160 ms. It has no
        parameters: the model runs in JAX, on JAX's device.

    Raises:
        AdapterError: PyTorch is missing.
        ExportError: not an export.
    """
    require_torch("X-ARES")
    import torch

    from slap_jax.inference.model import SlapModel

    class XaresEncoder(torch.nn.Module):
        """Holds the model, which is not PyTorch's."""

        def __init__(self, model: "SlapModel"):
            super().__init__()
            self.model = model
            self.sampling_rate = int(model.config.audio.sample_rate)
            self.output_dim = int(model.config.model.audio_encoder.width)
            self.hop_size_in_ms = column_milliseconds(model)

        def forward(self, audio: torch.Tensor) -> torch.Tensor:
            """Returns dense features of every clip."""
            features = dense_features(self.model, batch_samples(audio, "X-ARES"))
            return torch.from_numpy(features).to(audio.device)

    return XaresEncoder(SlapModel.load(directory))


class AdapterError(UserError, ValueError):
    """An adapter that cannot work, or was given what it cannot use; the message says what to do."""


def require_torch(benchmark: str) -> None:
    """Checks that PyTorch is installed, in whose tensors the benchmark speaks.

    Raises:
        AdapterError: names the extra.
    """
    if importlib.util.find_spec("torch") is None:
        raise AdapterError(f"{benchmark} hands over and expects PyTorch tensors: pip install 'slap-jax[torch]'")


def batch_samples(audio: Any, benchmark: str) -> Float[np.ndarray, "B n"]:
    """Returns the samples of a batch, a tensor or array [B, n] or [n], as float32.

    Raises:
        AdapterError: another shape, or no samples.
    """
    if hasattr(audio, "detach"):
        audio = audio.detach().cpu().numpy()
    samples = np.asarray(audio, np.float32)
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2 or samples.shape[1] == 0:
        raise AdapterError(
            f"{benchmark}: audio has shape {list(samples.shape)}; expected [clips, samples] of at least one sample"
        )
    return samples


def column_milliseconds(model: SlapModel) -> float:
    """Returns the duration of a column, of which dense features have one vector each."""
    audio = model.config.audio
    return 1_000.0 * audio.hop_length * audio.frames_per_column / audio.sample_rate


def dense_features(model: SlapModel, samples: Shaped[np.ndarray, "B n"]) -> Float[np.ndarray, "B c D"]:
    """Returns the dense features of each clip, c = ceil(n / samples of a column)."""
    rate = model.config.audio.sample_rate
    return np.stack([model.frames(clip, sample_rate=rate).features for clip in samples])
