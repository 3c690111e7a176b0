"""Our models give the results of the PyTorch file with the same weights (`tests/golden/make_pytorch_module.py`)."""

from pathlib import Path

import numpy as np
import pytest

from slap_jax.inference.captioner import Captioner
from slap_jax.inference.embedder import Embedder
from tests.export.seeded import TEXTS, seeded_clips, seeded_config, seeded_params
from tests.inference.tiny import tiny_tokenizer

pytestmark = pytest.mark.compile

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pytorch_module.npz")
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def model():
    config = seeded_config("scratch")
    return config, Embedder(config), seeded_params(config)


def test_embeddings_of_clips_of_any_duration(model):
    _, embedder, params = model
    result = embedder.audio(params["model"], seeded_clips())
    assert np.abs(result - GOLDEN["scratch_audio"]).max() < TOLERANCE
    # The comparison could not fail if all clips were alike.
    assert np.abs(result[:, None] - result[None])[~np.eye(len(result), dtype=bool)].max(-1).min() > 0.01


def test_dense_features(model):
    _, embedder, params = model
    result = embedder.frames(params["model"], [seeded_clips()[2]])[0]
    expected = GOLDEN["scratch_features"].reshape(len(result), embedder.patches, -1).mean(axis=1)
    assert np.abs(result - expected).max() < 10 * TOLERANCE  # values of up to 3, not of a unit vector


@pytest.mark.parametrize("kind", ["scratch", "modernbert"])
def test_embeddings_of_texts(kind, tmp_path):
    config = seeded_config(kind)
    embedder, params = Embedder(config), seeded_params(config)
    tokenizer = tiny_tokenizer(tmp_path / "words.model")
    tokens = [tokenizer.encode(text, config.data.max_caption_tokens) for text in TEXTS]
    assert len({len(ids) for ids in tokens}) > 2
    result = embedder.text(params["model"], tokens)
    assert np.abs(result - GOLDEN[f"{kind}_text"]).max() < TOLERANCE


def test_captions(model):
    config, embedder, params = model
    captioner = Captioner(embedder, config.data.max_caption_tokens)
    result = captioner(params["model"], params["objectives"]["captioning"]["decoder"], seeded_clips()[:4])
    expected = GOLDEN["scratch_captions"][:4]
    assert len(np.unique(expected)) > 8 and (expected == 2).any()  # captions that end, too
    assert np.array_equal(np.array(result)[:, : expected.shape[1]], expected)
