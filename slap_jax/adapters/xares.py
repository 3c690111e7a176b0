"""An audio encoder for X-ARES (Zhang et al. 2025, arXiv 2505.16369): audio [B, T] to dense features [B, T', D].

X-ARES loads a Python file of yours that creates the encoder:

    from slap_jax.adapters.xares import encoder

    SlapEncoder = lambda: encoder("EXPORT_DIRECTORY")
"""

from typing import TYPE_CHECKING

from slap_jax.adapters.batches import batch_samples, column_milliseconds, dense_features, require_torch
from slap_jax.inference.model import SlapModel

if TYPE_CHECKING:
    import torch


def encoder(directory: str) -> "torch.nn.Module":
    """Loads an export as an encoder.

    Args:
        directory: The export directory.

    Returns:
        A module with `sampling_rate`, `output_dim` and `hop_size_in_ms`. Its forward pass maps audio [B, T] or [T] in
        [-1, 1], of any duration, to dense features [B, T', output_dim], one per 160 ms. It has no parameters: the model
        runs in JAX, on JAX's device.

    Raises:
        AdapterError: PyTorch is not installed.
        ExportError: The directory is not an export.
    """
    require_torch("X-ARES")
    import torch

    class XaresEncoder(torch.nn.Module):
        def __init__(self, model: SlapModel):
            super().__init__()
            self.model = model
            self.sampling_rate = model.sample_rate
            self.output_dim = int(model.config.model.audio_encoder.width)
            self.hop_size_in_ms = column_milliseconds(model)

        def forward(self, audio: torch.Tensor) -> torch.Tensor:
            features = dense_features(self.model, batch_samples(audio, "X-ARES"))
            return torch.from_numpy(features).to(audio.device)

    return XaresEncoder(SlapModel.load(directory))
