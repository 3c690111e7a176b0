"""Batches of equally long clips, as benchmarks hand them over, through a model that takes clips one by one."""

import importlib.util
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from slap_jax.inference.model import SlapModel


class AdapterError(ValueError):
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
