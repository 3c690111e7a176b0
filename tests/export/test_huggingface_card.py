"""The card of a Hugging Face folder, and what our own tools say of the folder."""

import json

import pytest
from huggingface_hub import ModelCard

from slap_jax.checkpoints.model_dir import ExportError, export, load_export
from slap_jax.cli import main
from slap_jax.export.huggingface_card import write_huggingface_card
from slap_jax.export.model_card import write_card
from tests.inference.tiny import shared_params, tiny_config, tiny_tokenizer

pytestmark = pytest.mark.compile

EVALUATION = {"retrieval": {"scenes": {"t2a_r1": 0.25, "t2a_r1_interval": [0.1, 0.4], "n_clips": 8}}}


@pytest.fixture
def directory(tmp_path):
    words = tiny_tokenizer(tmp_path / "words.model").path
    return export(shared_params(), tiny_config(), words, tmp_path / "export")


def test_the_card_shows_transformers_and_keeps_data_metrics_and_licence(directory, tmp_path):
    model = load_export(directory)
    path = write_card(model, directory, sources=None, evaluation=EVALUATION, licence="CC-BY-4.0")
    write_huggingface_card(model, path, tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    data = card.data
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "zero-shot-audio-classification")
    assert data["license"] == "cc-by-4.0" and data["eval_results"][0].metric_value == 0.25
    assert "slap_jax.load" not in card.text and "sentencepiece" in card.text
    headings = [line for line in card.text.splitlines() if line.startswith("## ")]
    assert headings == ["## Training data", "## Metrics", "## Licence"]
    assert "Weights: CC-BY-4.0." in card.text and "0.250" in card.text and "clips of up to 30 s" in card.text
    assert "model.caption(" in card.text and 'pipeline("zero-shot-audio-classification"' in card.text


def test_an_export_without_a_card_or_a_decoder(directory, tmp_path):
    params = {"model": shared_params()["model"], "objectives": {}}
    model = load_export(export(params, tiny_config(), directory / "tokenizer.model", tmp_path / "bare"))
    write_huggingface_card(model, tmp_path / "bare" / "README.md", tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data["license"], card.data["pipeline_tag"]) == ("unknown", "feature-extraction")
    assert "model.caption(" not in card.text and "its texts and labels mean nothing" in card.text


def test_our_tools_point_from_the_folder_to_the_export(directory, capsys):
    folder = directory / "huggingface"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "slap", "slap": {}}))
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        ExportError, match=f"wrote for transformers: .*the export that it was made from, here {directory}"
    ):
        load_export(folder)
    assert main(["doctor", str(folder)]) == 2
    assert "wrote for transformers" in capsys.readouterr().err
