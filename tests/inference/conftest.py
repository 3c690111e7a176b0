"""One tiny model and vocabulary for all tests of this folder; compiled programs are shared."""

import types
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from slap_jax.data.tokenizer import Tokenizer
from slap_jax.inference import long_audio
from slap_jax.inference.embedder import Embedder
from tests.inference.tiny import noise, shared_embedder, shared_params, tiny_tokenizer


@pytest.fixture(scope="session")
def run_params() -> dict[str, Any]:
    """Parameters of a tiny run: model, caption decoder, scale."""
    return shared_params()


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """An embedder of the tiny config."""
    return shared_embedder()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Tokenizer:
    """The vocabulary of the tiny model."""
    return tiny_tokenizer(tmp_path_factory.mktemp("words") / "words.model")


@pytest.fixture
def long_file(tmp_path) -> Path:
    """A recording of 60 seconds."""
    path = tmp_path / "long.flac"
    soundfile.write(path, np.tile(noise(4, 1.0, 8_000), 60), 8_000)
    return path


@pytest.fixture
def windows(monkeypatch) -> types.SimpleNamespace:
    """Counts the windows cut of long recordings: `made`, and the `most` in memory at the same time."""
    counts, original = types.SimpleNamespace(made=0, most=0), long_audio.cut_windows
    alive: list[weakref.ref] = []

    def counted(*arguments):
        nonlocal alive
        for start, samples in original(*arguments):
            alive = [*(one for one in alive if one() is not None), weakref.ref(samples)]
            counts.most, counts.made = max(counts.most, len(alive)), counts.made + 1
            yield start, samples
            del samples

    monkeypatch.setattr(long_audio, "cut_windows", counted)
    monkeypatch.setattr("slap_jax.data.audio.BLOCK_FRAMES", 4_000)
    return counts
