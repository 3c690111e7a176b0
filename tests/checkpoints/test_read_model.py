"""A run directory is exported from its newest checkpoint, and falls back to its export."""

import json
import shutil

import numpy as np
import pytest

import slap_jax
from slap_jax.checkpoints.model_dir import ExportError
from slap_jax.checkpoints.read_model import export_run, read_model
from slap_jax.checkpoints.run import CheckpointError
from slap_jax.cli import main
from slap_jax.evaluation.scorer import ModelScorer
from slap_jax.finetune.config import base_config
from slap_jax.inference.model import SlapModel
from slap_jax.params import flatten
from tests.inference.tiny import noise, tiny_config, tiny_run_params, tiny_tokenizer, write_run

pytestmark = pytest.mark.compile


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "run"
    config = tiny_config()
    tokenizer = tiny_tokenizer(directory / "words.model")
    config.data.tokenizer = str(tokenizer.path)
    for step in (1, 2):
        write_run(directory, config, step, seed=step)
    return directory, config


@pytest.fixture
def run(written, tmp_path):
    directory, config = written
    return shutil.copytree(directory, tmp_path / "run"), config


def test_export_gives_the_same_embeddings_as_the_parameters(run):
    directory, config = run
    exported = export_run(directory)
    assert exported == directory / "export"
    clip = (noise(0, 0.5), 16_000)
    model = slap_jax.load(exported)
    tokenizer = tiny_tokenizer(directory / "again.model")
    expected = SlapModel(config, tiny_run_params(config, seed=2), tokenizer)
    assert np.array_equal(model.embed_audio([clip]), expected.embed_audio([clip]))
    assert np.array_equal(model.embed_text(["rain falls"]), expected.embed_text(["rain falls"]))
    assert model.caption([clip]) == expected.caption([clip])


def test_an_older_step(run, tmp_path):
    directory, config = run
    model = read_model(export_run(directory, tmp_path / "first", step=1))
    assert model.step == 1
    result, expected = flatten(model.params["model"]), flatten(tiny_run_params(config, seed=1)["model"])
    assert all(np.array_equal(result[name], np.asarray(expected[name])) for name in expected)
    with pytest.raises(CheckpointError, match="no checkpoint of step 9"):
        export_run(directory, step=9)


def test_read_model_takes_both_kinds_of_directory(run):
    directory, _ = run
    from_run, from_export = read_model(directory), read_model(export_run(directory))
    assert from_run.step == from_export.step == 2
    assert "evaluation" in from_run.config.data and "evaluation" not in from_export.config.data
    result = flatten(from_export.params)
    assert all(
        np.array_equal(result[name], value) for name, value in flatten(from_run.params).items() if name in result
    )


def test_a_run_whose_checkpoints_are_gone_is_read_from_its_export(run):
    directory, _ = run
    export_run(directory)
    shutil.rmtree(directory / "checkpoints")
    assert read_model(directory).step == 2


def test_a_lost_vocabulary(run):
    directory, _ = run
    content = json.loads((directory / "config.json").read_text())
    content["data"]["tokenizer"] = str(directory / "lost.model")
    (directory / "config.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r"lost\.model, which the run .* was trained with, is missing"):
        export_run(directory)


def test_bad_directories(run, tmp_path):
    directory, _ = run
    exported = export_run(directory)
    with pytest.raises(ExportError, match="is an export already"):
        export_run(exported)
    with pytest.raises(ExportError, match="nowhere is not a directory"):
        read_model(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match="holds neither"):
        read_model(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ExportError, match="is not the config of a run"):
        read_model(tmp_path / "empty")
    shutil.copy(directory / "config.json", tmp_path / "empty" / "config.json")
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        read_model(tmp_path / "empty")


def test_an_export_without_weights_is_not_taken_for_a_run(run, capsys):
    exported = export_run(run[0])
    (exported / "model.safetensors").unlink()
    lacks = r"export lacks model\.safetensors; an export holds .*: write it again with `slap export RUN_DIR`"
    with pytest.raises(ExportError, match=lacks):
        read_model(exported)
    with pytest.raises(ExportError, match=lacks):
        base_config(str(exported))  # of `slap finetune`
    assert main(["export", str(exported), "--format", "pytorch"]) == 2
    assert "lacks model.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    "edit",
    [
        lambda config: config.update(data="here"),
        lambda config: config["data"].update(max_caption_tokens=0),
        lambda config: config["model"]["audio_encoder"].update(width="wide"),
        lambda config: config["model"].pop("embed_dim"),
        lambda config: config["audio"].update(mels=0),
    ],
)
def test_an_edited_config_of_a_run_is_named(run, edit):
    directory, _ = run
    config = json.loads((directory / "config.json").read_text())
    edit(config)
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=r"run/config\.json.*restore"):
        read_model(directory)


def test_parameters_of_another_size_are_named(run):
    directory, _ = run
    config = json.loads((directory / "config.json").read_text())
    config["model"]["audio_encoder"]["width"] *= 2
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match="does not hold the parameters that its config describes"):
        ModelScorer(directory).score([])
