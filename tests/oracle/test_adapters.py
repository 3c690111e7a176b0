"""HEAR's and X-ARES' interfaces as their documents state them, and mteb run offline on a task made in memory."""

import inspect
import os

import numpy as np
import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before mteb imports the hub's client

import datasets
import mteb
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification
from mteb.models.models_protocols import EncoderProtocol

import slap_jax
from slap_jax.adapters import hear, xares
from slap_jax.adapters.mteb_model import mteb_model
from slap_jax.checkpoints.model_dir import export
from tests.inference.tiny import noise, tiny_config, tiny_run_params, tiny_tokenizer

pytestmark = pytest.mark.compile

LABELS = ["a dog barks outside", "rain falls in a hall", "a long bell near the sea"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    config = tiny_config()
    tokenizer = tiny_tokenizer(directory / "words.model")
    return str(export(tiny_run_params(config), config, tokenizer.path, directory / "export"))


def test_hear(directory):
    assert list(inspect.signature(hear.load_model).parameters) == ["model_file_path"]
    model = hear.load_model(directory)
    assert isinstance(model.to("cpu"), torch.nn.Module)
    assert (model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size) == (16_000, 16, 32)
    audio = torch.from_numpy(np.stack([noise(seed, 1.0) for seed in range(3)]))
    scenes = hear.get_scene_embeddings(audio, model)
    assert scenes.shape == (3, 16) and scenes.dtype == torch.float32
    ours = slap_jax.load(directory).embed_audio([(clip, 16_000) for clip in audio.numpy()])
    assert np.array_equal(scenes.numpy(), ours)
    features, timestamps = hear.get_timestamp_embeddings(audio, model)
    assert features.shape == (3, 7, 32) and features.dtype == torch.float32
    assert timestamps.shape == (3, 7) and timestamps[0].tolist() == [80.0 + 160.0 * column for column in range(7)]


@pytest.mark.parametrize("samples", [1, 16_000, 50_000])
def test_xares(directory, samples):
    model = xares.encoder(directory)
    assert (model.sampling_rate, model.output_dim, model.hop_size_in_ms) == (16_000, 32, 160.0)
    audio = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    features = model(audio)
    assert features.shape == (2, -(-samples // 2_560), 32) and bool(features.isfinite().all())
    assert torch.equal(model(audio[1]), features[1:])


class NoiseTask(AbsTaskZeroShotClassification):
    """Nine clips of noise in three classes."""

    metadata = TaskMetadata(
        name="NoiseZeroShot",
        description="Noise.",
        reference=None,
        dataset={"path": "in/memory", "revision": "1"},
        type="AudioZeroshotClassification",
        category="a2t",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="accuracy",
        date=("2026-01-01", "2026-01-02"),
        domains=[],
        task_subtypes=[],
        license="cc0-1.0",
        annotations_creators="derived",
        dialect=[],
        modalities=["audio", "text"],
        sample_creation="created",
        bibtex_citation="",
    )
    input_column_name = "audio"
    label_column_name = "label"

    def load_data(self, **kwargs):
        rows = [
            {"audio": {"array": noise(seed, 0.2 + 0.1 * seed).tolist(), "sampling_rate": 16_000}, "label": seed % 3}
            for seed in range(9)
        ]
        self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
        self.data_loaded = True

    def get_candidate_labels(self):
        return LABELS


def test_mteb(directory, tmp_path):
    model = mteb_model(directory)
    assert isinstance(model, EncoderProtocol)
    assert model.mteb_model_meta.revision == slap_jax.load(directory).model_id
    results = mteb.evaluate(model, [NoiseTask()], cache=None, encode_kwargs={"batch_size": 4})
    ours = slap_jax.load(directory)
    audio = ours.embed_audio([(noise(seed, 0.2 + 0.1 * seed), 16_000) for seed in range(9)])
    chosen = np.argmax(audio @ ours.embed_text(LABELS).T, axis=1)
    accuracy = float(np.mean(chosen == np.arange(9) % 3))
    assert results.task_results[0].get_score() == pytest.approx(accuracy)
