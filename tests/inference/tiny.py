"""A model small enough that tests compile it in seconds."""

import flax.nnx as nnx
import numpy as np
from ml_collections import ConfigDict

from slap_jax.config import default_config
from slap_jax.models.slap import Slap


def tiny_config(**model: object) -> ConfigDict:
    """One block of each tower, width 32, fp32."""
    config = default_config()
    config.model.update(embed_dim=16, vocab_size=64, compute_dtype="float32", **model)
    config.model.audio_encoder.update(layers=3, heads=2, width=32, mlp_width=48)
    config.model.text_encoder.update(layers=2, heads=2, width=32, mlp_width=48)
    config.model.caption_decoder.update(layers=2, heads=2, width=32, mlp_width=48)
    config.data.max_caption_tokens = 24
    return config


def tiny_params(config: ConfigDict, seed: int = 0) -> dict:
    """Random parameters of the model."""
    return nnx.to_pure_dict(nnx.split(Slap(config, rngs=nnx.Rngs(seed)))[1])


def noise(seed: int, seconds: float, rate: int = 16_000) -> np.ndarray:
    """Float32 noise whose loudness moves, so that no two moments are alike."""
    generator = np.random.default_rng(seed)
    samples = max(1, round(seconds * rate))
    envelope = 0.1 + 0.1 * np.sin(np.arange(samples) / rate * generator.uniform(3, 9))
    return (envelope * generator.normal(size=samples)).astype(np.float32)
