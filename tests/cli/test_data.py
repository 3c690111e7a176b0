"""The verbs that look at data, on tiny data."""

import json

import numpy as np
import pytest

from slap_jax.checkpoints.run import Checkpoints
from slap_jax.cli import main
from slap_jax.config.files import read_config
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.tokenizer import load_tokenizer
from tests.data.tiny_data import tiny_dataset, tiny_tokenizer

CONFIG = """
from slap_jax.config import default_config, source


def get_config(arg=None):
    config = default_config()
    config.data.train.tiny = source({data!r}, "train")
    config.data.tokenizer = {tokenizer!r}
    config.data.update(rows=4, columns=16, slots=4, text_tokens=96, max_seconds=2.56, max_caption_tokens=32)
    config.data.update(virtual_shards=2, packing_bins=2)
    return config
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Returns a folder with prepared data, a vocabulary and a config."""
    root = tmp_path_factory.mktemp("cli_data")
    tokenizer = tiny_tokenizer(root)
    tiny_dataset(root / "data")
    (root / "config.py").write_text(CONFIG.format(data=str(root / "data"), tokenizer=tokenizer.path))
    return root


def test_stats_of_a_split(root, capsys):
    assert main(["stats", str(root / "data"), "--output", str(root / "stats")]) == 0
    assert "config.audio.update(mean=" in capsys.readouterr().out
    assert (root / "stats" / "stats.png").stat().st_size > 10_000
    assert main(["stats", str(root / "data"), "train", "--json", "--slots", "8"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["sources"]["data"]["clips"] == 24 and printed["std"] > 0 and printed["packing"]["slots"] == 8
    written = json.loads((root / "stats" / "stats.json").read_text())
    assert written["packing"]["slots"] == 32 and {**written, "packing": {}} == {**printed, "packing": {}}


def test_stats_of_a_config(root, capsys):
    words = ["stats", "--config", str(root / "config.py"), "--config.data.columns=20", "--json"]
    assert main([*words, "--text-tokens", "128"]) == 0
    packing = json.loads(capsys.readouterr().out)["packing"]
    assert (packing["columns"], packing["text_tokens"], packing["slots"]) == (20, 128, 4) and packing["text_fill"] > 0


def test_data_show(root, capsys):
    words = ["data", "show", "--config", str(root / "config.py"), "--output", str(root / "shown")]
    assert main([*words, "--rows", "1", "--step", "1", "--config.data.columns=20"]) == 0
    assert " of 20 columns" in capsys.readouterr().out
    clips = [json.loads(line) for line in (root / "shown" / "clips.jsonl").read_text().splitlines()]
    assert {path.name for path in (root / "shown").iterdir()} == {
        "clips.jsonl",
        "row0.png",
        *(clip["file"] for clip in clips),
    }


def test_data_show_of_a_run(root, tmp_path, capsys):
    config = read_config(str(root / "config.py"))
    train = TrainBatches(config, load_tokenizer(config.data.tokenizer))
    with Checkpoints(tmp_path / "checkpoints", handle_signals=False) as checkpoints:
        for step in (1, 2):
            next(train)
            checkpoints.save(step, {"params": {"x": np.zeros(1)}}, train.get_state(), {"config": {}}, force=True)
    train.close()
    words = ["data", "show", "--config", str(root / "config.py"), "--rows", "1", "--output"]
    assert main([*words, str(tmp_path / "of_run"), "--run-dir", str(tmp_path)]) == 0
    assert "step 2, row 0" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "planned"), "--step", "2"]) == 0
    assert (tmp_path / "of_run" / "clips.jsonl").read_text() == (tmp_path / "planned" / "clips.jsonl").read_text()
    assert main([*words, str(tmp_path / "none"), "--run-dir", str(tmp_path), "--step", "0"]) == 2
    assert "no checkpoint up to step 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stats"], "slap stats: give a prepared directory with its split, or --config FILE"),
        (["stats", "{root}/data", "nowhere"], "has no split 'nowhere'"),
        (["stats", "--config", "{root}/config.py", "--columns", "9"], "config.data.columns is 9"),
        (["stats", "--config", "{root}/config.py", "--tokenizer", "{root}/none.model"], "none.model is missing"),
        (["data", "show", "--config", "{root}/none.py", "--output", "{root}/x"], "slap data show: config file"),
        (["data", "show", "--config", "{root}/config.py", "--output", "{root}/x", "--rows", "0"], "ask for one row"),
        (["data", "show", "--config", "{root}/config.py", "--output", "{root}/x", "--config.data.row=1"], "data.rows?"),
    ],
)
def test_mistakes_end_in_one_line(root, capsys, words, message):
    assert main([word.format(root=root) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
