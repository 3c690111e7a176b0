"""Runs the examples of docs/finetuning.md as printed, with a tiny model, and compares its tables with the code."""

import json
import re

import pytest
import soundfile

from slap_jax.checkpoints.read_model import read_model
from slap_jax.finetune.config import BEST_METRIC, EPOCHS, LAYER_DECAY, LEARNING_RATE, TASKS
from tests.data.tiny_data import tone
from tests.docs.run_page import ROOT, run_page, write_model

pytestmark = pytest.mark.process

PAGE = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The files that the page uses: a model, and a folder of sounds with captions and labels."""
    root = tmp_path_factory.mktemp("finetuning")
    write_model(root, max_seconds=0.64)
    for index in range(10):
        folder = root / "my_sounds" / ("train" if index < 4 else "val" if index < 6 else "test")
        folder.mkdir(parents=True, exist_ok=True)
        kind, pitch = (("water", 300.0), ("bell", 2_000.0))[index % 2]
        soundfile.write(folder / f"{index}.wav", tone(0.3 + 0.01 * index, pitch), 16_000)
        about = {"captions": [f"a {kind} number {index}"], "labels": [f"kind={kind}"]}
        (folder / f"{index}.json").write_text(json.dumps(about))
    return root


def test_the_commands_of_the_page(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    result, commands = run_page("finetuning")
    assert len(commands) == 8
    assert result["classifier"].classes == ("bell", "water") and set(result["probabilities"]) == {"bell", "water"}
    best = root / "runs" / "kinds" / "best"
    scores = json.loads((best / "evaluation.json").read_text())["classification"]["test"]
    assert scores["n"] == 4 and scores["label"] == "kind"
    assert "The trained classification head" in (best / "report.html").read_text()
    assert "| trained classification head | test | accuracy |" in (best / "export" / "README.md").read_text()
    assert capsys.readouterr().out.count("my_sounds/test/") == 2
    config = json.loads((root / "runs/kinds/config.json").read_text())
    assert config["objectives"]["classification"]["mixup_probability"] == 0.5 and config["train"]["patience"] == 3
    history = json.loads((root / "runs/mine/best.json").read_text())
    assert history["metric"] == BEST_METRIC["retrieval"].format("val") and len(history["evaluations"]) == 2
    assert read_model("runs/mine/best").step == history["step"]


def test_values_on_the_page_match_the_code():
    def row(title: str) -> list[str]:
        (cells,) = re.findall(rf"^\| {re.escape(title)} \| (.*) \|$", PAGE, re.MULTILINE)
        return cells.split(" | ")

    for title, values in (
        ("`--learning-rate`, the peak", LEARNING_RATE),
        ("`--layer-decay`", LAYER_DECAY),
        ("`--epochs`", EPOCHS),
    ):
        assert [float(cell) for cell in row(title)] == [values[task] for task in TASKS]
    files = {f"`configs/finetune/{path.name}`" for path in (ROOT / "configs" / "finetune").glob("*.py")}
    assert files == set(re.findall(r"^\| (`configs/finetune/\w+.py`)", PAGE, re.MULTILINE))
