"""The adapters without PyTorch: batches of samples, dense features, rows of mteb, missing packages."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import slap_jax
from slap_jax.adapters import hear, xares
from slap_jax.adapters.batches import AdapterError, batch_samples, column_milliseconds, dense_features
from slap_jax.adapters.mteb_model import MtebModel, mteb_model
from slap_jax.checkpoints.model_dir import export
from tests.inference.tiny import noise, tiny_config, tiny_run_params, tiny_tokenizer

pytestmark = pytest.mark.compile


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    config = tiny_config()
    tokenizer = tiny_tokenizer(directory / "words.model")
    return slap_jax.load(export(tiny_run_params(config), config, tokenizer.path, directory / "export"))


def test_batches_of_samples():
    assert batch_samples(np.zeros((2, 5)), "HEAR").dtype == np.float32
    assert batch_samples(np.zeros(5), "HEAR").shape == (1, 5)
    with pytest.raises(AdapterError, match=r"HEAR: audio has shape \[2, 3, 4\]; expected \[clips, samples\]"):
        batch_samples(np.zeros((2, 3, 4)), "HEAR")
    with pytest.raises(AdapterError, match=r"audio has shape \[2, 0\]"):
        batch_samples(np.zeros((2, 0)), "HEAR")


def test_dense_features_of_a_batch_are_those_of_each_clip(model):
    clips = np.stack([noise(seed, 0.5) for seed in range(2)])
    features = dense_features(model, clips)
    assert features.shape == (2, 4, 32) and column_milliseconds(model) == 160.0
    assert np.array_equal(features[1], model.frames(clips[1], sample_rate=16_000).features)
    assert not np.allclose(features[0], features[1])


class Loader(list):
    """Yields batches of rows through `collate_fn`, as the loaders of mteb do."""

    collate_fn: Callable[[list], Any]

    def __iter__(self):
        return (self.collate_fn(rows) for rows in super().__iter__())


def test_rows_of_mteb(model):
    adapter = MtebModel(model, "someone/slap")
    first, second = noise(0, 0.3), noise(1, 0.4, rate=8_000)
    stereo = {"array": np.stack([second, second]), "sampling_rate": 8_000}  # channels first
    rows = Loader([[{"audio": {"array": first, "sampling_rate": 16_000}}], [{"audio": stereo}]])
    expected = model.embed_audio([(first, 16_000), (second, 8_000)])
    assert np.allclose(adapter.encode(rows), expected, atol=1e-6)
    texts = Loader([[{"text": "rain falls"}, {"text": "wind blows"}]])
    assert np.array_equal(adapter.encode(texts), model.embed_text(["rain falls", "wind blows"]))
    assert adapter.encode(Loader()).shape == (0, 16)
    with pytest.raises(AdapterError, match="the rows have image; this model embeds 'audio' and 'text'"):
        adapter.encode(Loader([[{"image": 0}]]))


@pytest.mark.parametrize(
    ("load", "package", "extra"),
    [(hear.load_model, "torch", "torch"), (xares.encoder, "torch", "torch"), (mteb_model, "mteb", "mteb")],
)
def test_a_missing_package_is_reported_with_its_extra(load, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(AdapterError, match=rf"pip install 'slap-jax\[{extra}\]'"):
        load("anything")
