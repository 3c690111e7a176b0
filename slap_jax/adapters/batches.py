"""Converts batches of equally long clips, the input of HEAR and X-ARES, for models that take clips one by one."""

import importlib.util
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from slap_jax.errors import UserError
from slap_jax.inference.model import SlapModel


class AdapterError(UserError, ValueError):
    """A missing package, or an input that an adapter cannot use."""


def require_torch(benchmark: str) -> None:
    """Raises `AdapterError` if PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise AdapterError(f"{benchmark} passes PyTorch tensors, but PyTorch is missing: pip install 'slap-jax[torch]'")


def batch_samples(audio: Any, benchmark: str) -> Float[np.ndarray, "B n"]:
    """Returns a batch, a tensor or array [B, n] or [n], as a float32 array [B, n].

    Raises:
        AdapterError: The batch has another shape or no samples.
    """
    if hasattr(audio, "detach"):
        audio = audio.detach().cpu().numpy()
    samples = np.asarray(audio, np.float32)
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2 or samples.shape[1] == 0:
        raise AdapterError(
            f"{benchmark}: audio has shape {list(samples.shape)}; expected [clips, samples] with at least one sample"
        )
    return samples


def column_milliseconds(model: SlapModel) -> float:
    """Returns the duration of a column, the time step of dense features."""
    audio = model.config.audio
    return 1_000.0 * audio.hop_length * audio.frames_per_column / model.sample_rate


def dense_features(model: SlapModel, samples: Shaped[np.ndarray, "B n"]) -> Float[np.ndarray, "B c D"]:
    """Returns the dense features of each clip, c = ceil(n / samples per column)."""
    rate = model.sample_rate
    return np.stack([model.frames(clip, sample_rate=rate, allow_silence=True).features for clip in samples])
