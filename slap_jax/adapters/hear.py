"""The HEAR 2021 interface (Turian et al. 2022, arXiv 2203.03022): scene and timestamp embeddings.

    python -m heareval.embeddings.runner slap_jax.adapters.hear --model EXPORT_DIRECTORY --tasks-dir TASKS

A scene embedding is the unit vector of the whole clip. Timestamp embeddings are the dense features, one per column of
160 ms. For its event tasks HEAR recommends a hop of at most 50 ms, which this model does not have.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from slap_jax.adapters.batches import batch_samples, column_milliseconds, dense_features, require_torch
from slap_jax.inference.model import SlapModel

if TYPE_CHECKING:
    import torch


def load_model(model_file_path: str = "") -> "torch.nn.Module":
    """Loads an export.

    Args:
        model_file_path: The export directory.

    Returns:
        A module with `sample_rate`, `scene_embedding_size` and `timestamp_embedding_size`. It has no parameters,
        because the model runs in JAX, on JAX's device.

    Raises:
        AdapterError: PyTorch is not installed.
        ExportError: The directory is not an export.
    """
    require_torch("HEAR")
    import torch

    class HearModel(torch.nn.Module):
        def __init__(self, model: SlapModel):
            super().__init__()
            self.model = model
            self.sample_rate = model.sample_rate
            self.scene_embedding_size = int(model.embed_dim)
            self.timestamp_embedding_size = int(model.config.model.audio_encoder.width)

    return HearModel(SlapModel.load(model_file_path))


def get_scene_embeddings(audio: "torch.Tensor", model: Any) -> "torch.Tensor":
    """Returns unit vectors [n_sounds, E] of audio [n_sounds, n_samples] in [-1, 1] at `model.sample_rate`."""
    import torch

    clips = list(batch_samples(audio, "HEAR"))
    vectors = model.model.embed_audio(clips, sample_rate=model.sample_rate, allow_silence=True)
    return torch.from_numpy(np.ascontiguousarray(vectors)).to(audio.device)


def get_timestamp_embeddings(audio: "torch.Tensor", model: Any) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Returns dense features and their timestamps.

    Args:
        audio: Samples [n_sounds, n_samples] in [-1, 1] at `model.sample_rate`.
        model: Return value of `load_model`.

    Returns:
        Features [n_sounds, n_timestamps, D], and the centres of their columns [n_sounds, n_timestamps] in milliseconds.
    """
    import torch

    features = dense_features(model.model, batch_samples(audio, "HEAR"))
    centres = (np.arange(features.shape[1], dtype=np.float32) + 0.5) * column_milliseconds(model.model)
    timestamps = np.tile(centres, (len(features), 1))
    return torch.from_numpy(features).to(audio.device), torch.from_numpy(timestamps).to(audio.device)
