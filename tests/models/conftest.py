"""A tiny model and packed rows of it, for every test of the models."""

from collections.abc import Callable

import numpy as np
import pytest
from ml_collections import ConfigDict

from slap_jax.config.defaults import default_config

Rows = list[list[int]]


@pytest.fixture
def tiny_config() -> ConfigDict:
    """A whole config at toy sizes, fp32; each test may change its copy."""
    config = default_config()
    model = config.model
    model.update(embed_dim=12, vocab_size=40, compute_dtype="float32")
    model.audio_encoder.update(layers=3, heads=2, width=16, mlp_width=24, local_window=5)
    model.text_encoder.update(layers=2, heads=2, width=8, mlp_width=12)
    model.caption_decoder.update(layers=2, heads=2, width=8, mlp_width=12)
    return config


@pytest.fixture
def pack() -> Callable[[Rows, int], tuple[np.ndarray, np.ndarray]]:
    """Packs clips of the given lengths, in order: (segments, index inside the clip), int32 [rows, length] each."""

    def packed(lengths: Rows, length: int) -> tuple[np.ndarray, np.ndarray]:
        segments, index = np.zeros((2, len(lengths), length), np.int32)
        for row, clips in enumerate(lengths):
            start = 0
            for slot, size in enumerate(clips):
                segments[row, start : start + size] = slot + 1
                index[row, start : start + size] = np.arange(size)
                start += size
            assert start <= length
        return segments, index

    return packed
