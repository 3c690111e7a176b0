"""`slap export` on runs and exports: the files it writes, and the input it rejects."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import soundfile
from huggingface_hub import ModelCard
from safetensors.numpy import load_file

from slap_jax.checkpoints.model_dir import ExportError
from slap_jax.cli import main
from slap_jax.config.defaults import source
from slap_jax.data.records import open_split
from slap_jax.export.formats import FORMATS, export_model, refresh_card
from slap_jax.export.model_card import change_licence
from tests.inference.tiny import noise, tiny_config, tiny_tokenizer, write_run

pytestmark = pytest.mark.compile


@pytest.fixture(scope="module")
def run(tmp_path_factory, train_data):
    """A run directory of one step, whose config says that it was trained on the scenes of the tests."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    config = tiny_config()
    config.data.train.scenes = source(f"{train_data}/scenes", "train", weight=0.5)
    config.data.train.gone = source("no/such/data", "train")
    config.data.tokenizer = str(tiny_tokenizer(directory / "words.model").path)
    scores = {"t2a_r1": 0.25, "t2a_r1_interval": [0.1, 0.4], "n_clips": 8, "chance_r1": 0.125, "majority": 0.5}
    evaluation = {"retrieval": {"scenes": scores}}
    (directory / "evaluation.json").write_text(json.dumps(evaluation))
    return write_run(directory, config, step=1)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export_model(run, out_dir=tmp_path_factory.mktemp("exported"), licence="CC-BY-4.0")


def test_an_export_of_a_run_is_complete(exported):
    names = {"README.md", "config.json", "fingerprint.json", "model.safetensors", "tokenizer.model"}
    assert {path.name for path in exported.iterdir()} == names


def test_the_card_states_licence_data_metrics_and_limits(exported, train_data):
    card = (exported / "README.md").read_text()
    data = ModelCard(card).data
    assert data["license"] == "cc-by-4.0" and "Weights: CC-BY-4.0." in card
    (result,) = data["eval_results"]
    assert (result.task_type, result.dataset_name) == ("audio-text-retrieval", "scenes")
    assert (result.metric_type, result.metric_name) == ("recall_at_1", "text-to-audio R@1")
    assert result.metric_value == 0.25 and data["pipeline_tag"] == "feature-extraction"
    licences = {record.licence or "none stated" for record in open_split(train_data / "scenes", "train")}
    assert "| scenes | train | 0.5 | 24 | none stated | " in card and all(f"{text} (" in card for text in licences)
    assert "| gone | train | 1 | unknown: not on the machine that exported | unknown | unknown |" in card
    assert "| retrieval | scenes | text-to-audio R@1 | 0.250 | 0.100 to 0.400 | 0.125 | 8 |" in card
    assert "majority" not in card  # a baseline, not a result
    assert "## Limits" in card and "clips of up to 30 s" in card
    assert "no/such/data" not in card  # local paths must not leak into an export


def test_the_card_runs_where_it_is_stored(exported, tmp_path, monkeypatch):
    """The example needs no path of its own: it loads the directory that holds the card."""
    card = (exported / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    directory = shutil.copytree(exported, tmp_path / "somewhere")
    for name in ("your_sound.wav", "another.mp3"):
        soundfile.write(directory / name, noise(0, 0.5), 16_000, format="WAV")
    monkeypatch.chdir(directory)
    exec(compile(code, "README.md", "exec"), {})
    assert main(["doctor", "."]) == 0


@pytest.mark.parametrize(
    ("licence", "stated"),
    [
        ("", {"license": "unknown"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("Our terms", {"license": "other", "license_name": "Our terms"}),
    ],
)
def test_a_licence_has_the_identifier_of_the_hub(exported, tmp_path, licence, stated):
    directory = shutil.copytree(exported, tmp_path / "export")
    data = ModelCard(change_licence(directory, licence).read_text()).data.to_dict()
    assert {name: value for name, value in data.items() if name.startswith("license")} == stated


def test_evaluation_after_the_export_reaches_the_card(run, train_data, tmp_path, capsys):
    """`slap export` then `slap evaluate`: the card must not claim that the run was not evaluated."""
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "evaluation.json").unlink()
    card = export_model(copy, licence="MIT") / "README.md"
    assert "The run was not evaluated." in card.read_text() and "model-index" not in card.read_text()
    card.write_text(card.read_text() + "\n## Thanks\n\nTo all.\n")
    command = ["evaluate", str(copy), "--data", f"scenes={train_data}/scenes:test"]
    assert main(command) == 0
    assert f"updated the metrics in {card}" in capsys.readouterr().out
    text = card.read_text()
    measured = json.loads((copy / "evaluation.json").read_text())["retrieval"]["scenes"]
    assert f"| retrieval | scenes | text-to-audio R@1 | {measured['t2a_r1']:.3f} | " in text
    assert "was not evaluated" not in text and "## Thanks\n\nTo all.\n" in text and "Weights: MIT." in text
    (first, *_) = ModelCard(text).data["eval_results"]
    assert first.metric_value == measured["t2a_r1"]
    before = text
    export_model(copy, licence="MIT")  # a later export takes the metrics too
    assert card.read_text() == before.replace("\n## Thanks\n\nTo all.\n", "")


def test_results_of_another_step_do_not_reach_the_card(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    evaluation = json.loads((copy / "evaluation.json").read_text())
    (copy / "evaluation.json").write_text(json.dumps({**evaluation, "model": {"model_id": "another"}}))
    card = export_model(copy) / "README.md"
    assert "The run was not evaluated." in card.read_text()
    assert refresh_card(copy) is None


def test_an_export_takes_one_more_form(exported, tmp_path):
    directory = shutil.copytree(exported, tmp_path / "export")
    assert export_model(directory, "pytorch") == directory / "slap_torch.py"
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    after = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "slap_torch.py"}
    assert before == after


def test_an_old_export_is_brought_to_this_version(exported, tmp_path):
    old = shutil.copytree(exported, tmp_path / "old")
    content = json.loads((old / "config.json").read_text())
    del content["tokenizer"]
    (old / "config.json").write_text(json.dumps({**content, "format_version": 1}))
    for name in ("README.md", "fingerprint.json"):
        (old / name).unlink()
    new = export_model(old, out_dir=tmp_path / "new")
    assert json.loads((new / "config.json").read_text())["format_version"] == 2
    before, after = (load_file(directory / "model.safetensors") for directory in (old, new))
    assert list(before) == list(after) and all(np.array_equal(before[name], after[name]) for name in before)
    assert "Not recorded" in (new / "README.md").read_text()


@pytest.mark.parametrize("where", ["in its place", "a copy"])
def test_an_export_gets_a_licence_and_keeps_its_card(exported, tmp_path, where):
    old = shutil.copytree(exported, tmp_path / "old")
    text = (old / "README.md").read_text()
    (old / "README.md").write_text(text + "\n## Thanks\n\nTo all.\n")
    new = export_model(old, out_dir=None if where == "in its place" else tmp_path / "new", licence="MIT")
    card = (new / "README.md").read_text()
    assert card == text.replace("cc-by-4.0", "mit").replace("CC-BY-4.0", "MIT") + "\n## Thanks\n\nTo all.\n"


def test_a_card_whose_metadata_are_damaged_is_named(exported, tmp_path):
    old = shutil.copytree(exported, tmp_path / "old")
    (old / "README.md").write_text("---\nlicense: [\n---\n# Mine\n")
    with pytest.raises(ExportError, match=r"README\.md: the YAML block at its head cannot be parsed"):
        export_model(old, licence="MIT")
    (old / "README.md").write_text("# Mine\n")
    card = (export_model(old, licence="MIT") / "README.md").read_text()
    assert ModelCard(card).data["license"] == "mit" and "# Mine\n" in card and "Weights: MIT." in card


def test_the_command(run, exported, tmp_path, capsys):
    assert main(["export", str(run), "--output", str(tmp_path / "out"), "--format", "pytorch"]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'out' / 'slap_torch.py'}\n"
    assert main(["doctor", str(run)]) == 0  # a run directory is also checked
    printed = capsys.readouterr().out
    assert " none\n" in printed and printed.endswith("\nhealthy\n")
    assert main(["export", str(exported)]) == 2
    assert "is an export already" in capsys.readouterr().err
    assert main(["export", str(exported), "--step", "3", "--format", "pytorch"]) == 2
    assert "is an export, which has a single step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [("stablehlo", "flatbuffers", "stablehlo"), ("onnx", "onnxscript", "onnx"), ("huggingface", "torch", "torch")],
)
def test_a_missing_package_is_reported_before_any_work(exported, format, package, extra, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", str(exported), "--format", format]) == 2
    error = capsys.readouterr().err
    assert package in error and error.endswith(f"pip install 'slap-jax[{extra}]'\n") and error.count("\n") == 1


def test_bad_arguments_are_errors(exported, tmp_path):
    with pytest.raises(ExportError, match=f"format is 'gguf'; write one of {', '.join(FORMATS)}"):
        export_model(exported, "gguf")
    with pytest.raises(ExportError, match="nowhere is not a directory"):
        export_model(tmp_path / "nowhere", "pytorch")
    damaged = shutil.copytree(exported, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(ExportError, match=r"model\.safetensors cannot be read"):
        export_model(damaged, "pytorch")


def test_a_damaged_evaluation_is_named(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "evaluation.json").write_text("{")
    with pytest.raises(ExportError, match=r"evaluation\.json is damaged"):
        export_model(copy)
