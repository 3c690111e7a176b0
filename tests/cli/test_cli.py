"""Every verb on tiny data, in the order of a user's day; mistakes end in one line and exit code 2."""

import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import soundfile

from slap_jax.checkpoints.run import Checkpoints
from slap_jax.cli import main
from slap_jax.config.defaults import source
from tests.inference.tiny import noise, tiny_config, tiny_run_params


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Prepared scenes and clips, a vocabulary and a run of random parameters."""
    root = tmp_path_factory.mktemp("cli")
    assert main(["scenes", str(root / "scenes"), "--train", "12", "--test", "8", "--seed", "3"]) == 0
    clips = root / "recorded"
    clips.mkdir()
    for index in range(3):
        soundfile.write(clips / f"{index}.wav", noise(index, 0.5), 16_000)
        (clips / f"{index}.txt").write_text(f"noise number {index}\n")
    assert main(["prepare", str(clips), str(root / "clips")]) == 0
    words = ["tokenizer", str(root / "scenes"), f"{root / 'clips'}:train", "--vocab-size", "64"]
    assert main([*words, "--output", str(root / "words.model")]) == 0

    config = tiny_config()
    config.data.tokenizer = str(root / "words.model")
    config.data.evaluation.scenes = source(str(root / "scenes"), "test", label="structure")
    (root / "run").mkdir()
    (root / "run" / "config.json").write_text(config.to_json_best_effort())
    with Checkpoints(root / "run" / "checkpoints", handle_signals=False) as checkpoints:
        params = jax.tree.map(np.asarray, tiny_run_params(config))
        checkpoints.save(5, {"params": params}, {}, {"config": {}}, force=True)
    assert main(["export", str(root / "run")]) == 0
    return root


def test_tokenizer_reads_the_named_splits(root, capsys):
    output = ["--vocab-size", "40", "--output", str(root / "small.model")]
    assert main(["tokenizer", f"{root / 'scenes'}:test", *output]) == 0
    printed = capsys.readouterr().out
    assert "pieces from 32 captions" in printed and "config.model.vocab_size=" in printed


def test_evaluate_a_run_and_its_export(root, capsys):
    assert main(["evaluate", str(root / "run")]) == 0
    written = json.loads((root / "run" / "evaluation.json").read_text())
    assert written["model"]["step"] == 5
    assert written["retrieval"]["scenes"]["n_clips"] == 8 and written["retrieval"]["scenes"]["n_captions"] == 32
    assert written["zero_shot"]["scenes"]["label"] == "structure" and written["zero_shot"]["scenes"]["n"] == 8
    assert "scenes, text to audio" in capsys.readouterr().out

    data = f"again={root / 'scenes'}:test:structure"
    assert main(["evaluate", str(root / "run" / "export"), "--data", data, "--output", str(root / "again.json")]) == 0
    again = json.loads((root / "again.json").read_text())
    assert again["retrieval"]["again"] == written["retrieval"]["scenes"]
    assert again["zero_shot"]["again"] == written["zero_shot"]["scenes"]


def test_embed(root):
    files = [str(root / "recorded" / f"{index}.wav") for index in (2, 0)]
    command = ["embed", *files, "--model", str(root / "run" / "export"), "--output"]
    assert main([*command, str(root / "vectors.npz")]) == 0
    assert main([*command, str(root / "vectors.json")]) == 0
    arrays, content = np.load(root / "vectors.npz"), json.loads((root / "vectors.json").read_text())
    assert arrays["names"].tolist() == content["names"] == files
    assert arrays["embeddings"].shape == (2, 16) and np.allclose(arrays["embeddings"], content["embeddings"])
    texts = ["embed", "--text", "a tone", "rain", "--model", str(root / "run" / "export")]
    assert main([*texts, "--output", str(root / "texts.npz")]) == 0
    assert np.load(root / "texts.npz")["names"].tolist() == ["a tone", "rain"]


def test_classify_and_caption(root, capsys):
    file, model = str(root / "recorded" / "0.wav"), str(root / "run" / "export")
    assert main(["classify", "--labels", "a tone, a hiss,clicks,rain", "--audio", file, "--model", model]) == 0
    assert capsys.readouterr().out.count(",") == 2
    assert main(["classify", "--labels", "tone,hiss", "--audio", file, "--model", model, "--json"]) == 0
    assert sum(json.loads(capsys.readouterr().out)[file].values()) == pytest.approx(1.0)
    assert main(["caption", file, "--model", model]) == 0
    assert capsys.readouterr().out.startswith(f"{file}: ")
    assert main(["caption", file, "--model", model, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == [file]


def test_train_hands_over_the_config(root, monkeypatch):
    path = root / "config.py"
    path.write_text("from slap_jax.config import default_config\ndef get_config():\n    return default_config()\n")
    calls = []

    def fake(config, run_dir):
        calls.append((config.data.rows, run_dir))
        return 83

    monkeypatch.setitem(sys.modules, "slap_jax.train", types.SimpleNamespace(main=fake))
    command = ["train", f"--config={path}", "--run-dir", "runs/x", "--config.data.rows=12"]
    assert main(command) == 83
    assert calls == [(12, "runs/x")]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", "nowhere"], "slap evaluate: nowhere is not a directory"),
        (["evaluate", "{root}/run/export"], "slap evaluate: nothing to evaluate on: name a set with --data"),
        (["evaluate", "{root}/run", "--data", "scenes"], "slap evaluate: --data 'scenes' is not NAME=PATH:SPLIT"),
        (["evaluate", "{root}/run", "--data", "a={root}/scenes:dev"], "has no split 'dev'"),
        (["evaluate", "{root}/run", "--data", "a={root}/scenes:test:genre"], "no clip has the label 'genre'"),
        (["evaluate", "{root}/run", "--template", "loud"], "template 'loud' is not known"),
        (["export", "{root}/run/export"], "slap export: {root}/run/export is an export already"),
        (["embed", "no.wav", "--model", "{root}/run/export", "--output", "x.npz"], "slap embed: no.wav is missing"),
        (["embed", "no.wav", "--model", "{root}/run/export", "--output", "x.txt"], "x.txt is neither .npz nor .json"),
        (["caption", "no.wav", "--model", "{root}"], "lacks config.json, model.safetensors, tokenizer.model"),
        (["classify", "--audio", "a", "--labels", ",", "--model", "{root}/run/export"], "expected a list of distinct"),
        (["tokenizer", "{root}/none", "--vocab-size", "40", "--output", "x"], "does not exist"),
        (["prepare", "{root}/none.jsonl", "{root}/x"], "slap prepare: "),
        (["train", "--config", "no.py", "--run-dir", "x"], "slap train: config file 'no.py' does not exist"),
        (["report", "{root}/none"], "slap report: "),
    ],
)
def test_mistakes_are_one_line(root, capsys, command, message):
    assert main([word.format(root=root) for word in command]) == 2
    error = capsys.readouterr().err
    assert message.format(root=root) in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "command", [[], ["sing"], ["export"], ["export", "run", "--loud"], ["train", "--run-dir", "x"]]
)
def test_misuse_prints_the_usage(capsys, command):
    with pytest.raises(SystemExit) as exit:
        main(command)
    assert exit.value.code == 2 and "usage: slap" in capsys.readouterr().err


def test_help_is_instant():
    program = "import sys; from slap_jax.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    program += "assert not {'jax', 'numpy'} & set(sys.modules)"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for verb in ("prepare", "scenes", "tokenizer", "stats", "train", "evaluate", "export", "embed", "classify"):
        assert verb in printed
