"""Every command on tiny data, in the order of a user's work; user errors are one line with exit code 2."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile

from slap_jax.cli import GROUPS, create_parser, inference, main
from slap_jax.config.defaults import source
from slap_jax.inference.prompts import DEFAULT_TEMPLATE, TEMPLATES
from tests.inference.tiny import noise, tiny_config, write_run

pytestmark = pytest.mark.compile


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
    write_run(root / "run", config)
    assert main(["export", str(root / "run")]) == 0
    return root


def test_tokenizer_reads_the_named_splits(root, capsys):
    output = ["--vocab-size", "40", "--output", str(root / "small.model")]
    assert main(["tokenizer", f"{root / 'scenes'}:test", *output]) == 0
    printed = capsys.readouterr().out
    assert "pieces from 32 captions" in printed and "config.model.vocab_size=40" in printed


def test_evaluate_a_run_and_its_export(root, capsys):
    assert main(["evaluate", str(root / "run")]) == 0
    written = json.loads((root / "run" / "evaluation.json").read_text())
    assert written["model"]["step"] == 5
    assert written["retrieval"]["scenes"]["n_clips"] == 8 and written["retrieval"]["scenes"]["n_captions"] == 32
    assert written["zero_shot"]["scenes"]["label"] == "structure" and written["zero_shot"]["scenes"]["n"] == 8
    assert "scenes, text to audio" in capsys.readouterr().out

    other = ["--data", f"other={root / 'scenes'}:train", "--measure", "retrieval"]
    assert main(["evaluate", str(root / "run"), *other]) == 0
    both = json.loads((root / "run" / "evaluation.json").read_text())
    assert both["retrieval"].keys() == {"scenes", "other"} and both["zero_shot"] == written["zero_shot"]
    assert both["retrieval"]["scenes"] == written["retrieval"]["scenes"] and "replaced" not in capsys.readouterr().err

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
    assert sum(json.loads(capsys.readouterr().out)["results"][file].values()) == pytest.approx(1.0)
    assert main(["caption", file, "--model", model]) == 0
    assert capsys.readouterr().out.startswith(f"{file}: ")
    assert main(["caption", file, "--model", model, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["results"]) == [file]


def test_train_passes_the_config(root, monkeypatch):
    path = root / "config.py"
    path.write_text("from slap_jax.config import default_config\ndef get_config():\n    return default_config()\n")
    calls = []

    def fake(config, run_dir):
        calls.append((config.data.rows, run_dir))
        return 83

    monkeypatch.setitem(sys.modules, "slap_jax.train", types.SimpleNamespace(main=fake))
    command = ["train", f"--config={path}", "--run-dir", "runs/x", "--config.data.rows=12"]
    assert main(command) == 83
    assert main(["train", "--run-dir", str(root / "run"), "--config.data.rows=16"]) == 83  # its own config
    assert calls == [(12, "runs/x"), (16, str(root / "run"))]


def test_config_show_prints_what_a_run_would_use(root, capsys):
    path = root / "shown.py"
    path.write_text(
        "from slap_jax.config import default_config, parse_arg, source\n"
        "def get_config(arg=None):\n"
        "    config = default_config()\n"
        "    config.data.train.clips = source('data', 'train', weight=0.5)\n"
        "    config.data.tokenizer = 'words.model'\n"
        "    config.train.steps = parse_arg(arg, steps=3_000).steps\n"
        "    return config\n"
    )
    command = ["config", "show", f"{path}:steps=4000", "--config.optimizer.learning_rate=0.01"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"config.train.steps=4000", "config.optimizer.learning_rate=0.01", "config.audio.mels=64"} <= set(lines)
    assert main([*command, "--diff", "default"]) == 0
    changed = capsys.readouterr().out.splitlines()
    assert changed == [
        "config.data.tokenizer='words.model'  (default '')",
        "config.data.train.clips.path='data'  (default '')",
        "config.data.train.clips.split='train'  (default '')",
        "config.data.train.clips.weight=0.5  (default 1.0)",
        "config.optimizer.learning_rate=0.01  (default 0.0001)",
        "config.train.steps=4000  (default 100000)",
    ]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["steps"] == 4000
    assert main([*command, "--diff", "default", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config.train.steps"] == {"value": 4000, "default": 100000}
    assert main(["config", "show", str(path), "--config.data.rows=6"]) == 2  # printed, then checked as a run would
    captured = capsys.readouterr()
    assert "config.data.rows=6\n" in captured.out
    assert captured.err == (
        "slap config show: config.data.rows is 6, not a multiple of config.data.virtual_shards=8; write 8\n"
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", "nowhere"], "slap evaluate: nowhere is not a directory"),
        (["evaluate", "{root}/run/export"], "slap evaluate: there is nothing to evaluate on; name a set with --data"),
        (["evaluate", "{root}/run", "--data", "scenes"], "slap evaluate: --data 'scenes' is not NAME=PATH:SPLIT"),
        (["evaluate", "{root}/run", "--data", "a={root}/scenes:dev"], "has no split 'dev'"),
        (["evaluate", "{root}/run", "--data", "a={root}/scenes:test:genre"], "no clip has the label 'genre'"),
        (["evaluate", "{root}/run", "--template", "loud"], "template 'loud' is not known"),
        (["export", "{root}/run/export"], "slap export: {root}/run/export is an export already"),
        (["embed", "no.wav", "--model", "{root}/run/export", "--output", "x.npz"], "slap embed: no.wav is missing"),
        (["embed", "no.wav", "--model", "{root}/run/export", "--output", "x.txt"], "x.txt is neither .npz nor .json"),
        (["caption", "no.wav", "--model", "{root}"], "holds neither model.safetensors nor config.json"),
        (["classify", "--audio", "a", "--labels", ",", "--model", "{root}/run/export"], "expected a list of distinct"),
        (["tokenizer", "{root}/none", "--vocab-size", "40", "--output", "x"], "does not exist"),
        (["prepare", "{root}/none.jsonl", "{root}/x"], "slap prepare: "),
        (["train", "--config", "no.py", "--run-dir", "x"], "slap train: config file 'no.py' does not exist"),
        (["train", "--run-dir", "x"], "slap train: x holds no config.json, so there is no run to resume: name the"),
        (["train", "--run-dir", "{root}/run", "--config.train.stepz=3"], "did you mean config.train.steps?"),
        (["config", "show", "no.py"], "slap config show: config file 'no.py' does not exist"),
        (
            ["config", "show", "{root}/run", "--config.train.steps=abc"],
            "config.train.steps is 'abc'; write an integer, 1 or more, as --config.train.steps=VALUE",
        ),
        (["report", "{root}/none"], "slap report: "),
        (["scenes", "{root}/x", "--train", "0", "--test", "0"], "--train and --test are both 0"),
        (["probe", "x", "--data", "a=b:c:d", "--folds", "fold:0"], "--folds 'fold:0' is not LABEL or LABEL:NUMBER"),
        (["probe", "x", "--data", "a=b:c:d", "--folds", "fold:²"], "--folds 'fold:²' is not LABEL or LABEL:NUMBER"),
        (
            [
                "finetune",
                "--model",
                "{root}/run",
                "--task",
                "retrieval",
                "--data",
                "{root}/scenes",
                "--run-dir",
                "x",
                "--max-seconds=nan",
            ],
            "slap finetune: max_seconds is nan; write a number above 0",
        ),
        (
            ["tokenizer", "{root}/scenes", "--vocab-size", "40", "--output", "x", "--character-coverage", "2"],
            "slap tokenizer: character_coverage is 2.0; write a number from 0.98 to 1",
        ),
        (["ablations", "--config", "x.py", "--run-dir", "x", "--seeds", "a"], "--seeds 'a' is not a list of integers"),
    ],
)
def test_user_errors_are_one_line(root, capsys, command, message):
    assert main([word.format(root=root) for word in command]) == 2
    error = capsys.readouterr().err
    assert message.format(root=root) in error and error.count("\n") == 1


PATHS = (  # commands that write to {path}, or below it
    ["evaluate", "{root}/run/export", "--data", "a={root}/scenes:test", "--output", "{path}"],
    ["prepare", "{root}/recorded", "{path}"],
    ["scenes", "{path}", "--train", "1"],
    ["tokenizer", "{root}/scenes", "--vocab-size", "40", "--output", "{path}"],
    ["stats", "{root}/scenes", "--clips", "3", "--output", "{path}"],
    ["export", "{root}/run", "--output", "{path}"],
    ["embed", "--text", "rain", "--model", "{root}/run/export", "--output", "{path}/x.npz"],
    ["frames", "{root}/recorded/0.wav", "--model", "{root}/run/export", "--output", "{path}"],
    ["index", "{root}/recorded", "--model", "{root}/run/export", "--index", "{path}"],
)


@pytest.mark.parametrize("command", PATHS, ids=lambda command: command[0])
def test_an_output_that_cannot_be_written_is_named(root, tmp_path, capsys, command):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "below"
    assert main([word.format(root=root, path=path) for word in command]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/file" in error and "Errno" not in error and error.count("\n") == 1


DAMAGED = {  # file below the folder -> commands that read it
    "scenes/slap_clips/1.0.0/dataset_info.json": (
        ["stats", "{copy}/scenes"],
        ["tokenizer", "{copy}/scenes", "--vocab-size", "40", "--output", "x.model"],
        ["evaluate", "{root}/run/export", "--data", "a={copy}/scenes:test"],
        ["probe", "{root}/run/export", "--data", "a={copy}/scenes:test:structure", "--folds", "structure"],
        ["prepare", "{root}/recorded", "x", "--exclude", "{copy}/scenes:test"],
        ["finetune", "--model", "{root}/run", "--task", "retrieval", "--data", "{copy}/scenes", "--run-dir", "x"],
    ),
    "scenes/slap_clips/1.0.0/slap_records.json": (
        ["stats", "{copy}/scenes"],
        ["evaluate", "{root}/run/export", "--data", "a={copy}/scenes:test"],
        ["finetune", "--model", "{root}/run", "--task", "retrieval", "--data", "{copy}/scenes", "--run-dir", "x"],
    ),
    "scenes/slap_clips/1.0.0/index/test/id_hash_order.npy": (
        ["prepare", "{root}/recorded", "x", "--exclude", "{copy}/scenes:test"],
    ),
    "run/config.json": (
        ["train", "--run-dir", "{copy}/run"],
        ["config", "show", "{copy}/run"],
        ["evaluate", "{copy}/run"],
        ["export", "{copy}/run", "--output", "x"],
        ["score", "{copy}/run"],
        ["doctor", "{copy}/run"],
        ["report", "{copy}/run"],
        ["finetune", "--model", "{copy}/run", "--task", "retrieval", "--data", "{root}/scenes", "--run-dir", "x"],
    ),
    "run/export/config.json": (
        ["embed", "--text", "rain", "--json", "--model", "{copy}/run/export"],
        ["doctor", "{copy}/run/export"],
        ["export", "{copy}/run/export", "--format", "pytorch", "--output", "x"],
        ["index", "{root}/recorded", "--index", "x", "--model", "{copy}/run/export"],
    ),
}


@pytest.mark.parametrize("file", DAMAGED)
def test_a_damaged_file_is_named_by_every_command(root, tmp_path, monkeypatch, capsys, file):
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    for content in (b"", b"{", b"[]", b"7", b"\xe9"):
        (copy / file).write_bytes(content)
        for command in DAMAGED[file]:
            assert main([word.format(root=root, copy=copy) for word in command]) == 2, (content, command)
            error = capsys.readouterr().err
            assert str(copy / file) in error and error.count("\n") == 1, (content, command, error)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["sing"],
        ["export", "run", "--loud"],
        ["train", "--config", "x.py"],
        ["config", "show"],
        ["scenes", "x", "--seed", "-1"],
        ["search", "rain", "-k", "0", "--model", "x"],
        ["search", "rain", "-k", "99999999999", "--model", "x"],
        ["caption", "x.wav", "--beam", "99999999999", "--model", "x"],
        ["scenes", "x", "--seed", "99999999999999999999"],
    ],
)
def test_misuse_prints_the_usage(capsys, command):
    with pytest.raises(SystemExit) as exit:
        main(command)
    assert exit.value.code == 2 and "usage: slap" in capsys.readouterr().err


@pytest.mark.process
def test_help_is_instant():
    program = "import sys; from slap_jax.cli import main\n"
    program += "for words in (['--help'], ['search', '--help']):\n  try: main(words)\n  except SystemExit: pass\n"
    program += "assert not {'jax', 'numpy', 'tqdm', 'ml_collections'} & set(sys.modules)"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for verb in ("prepare", "scenes", "tokenizer", "stats", "train", "evaluate", "export", "embed", "classify"):
        assert verb in printed


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yields the parsers of all verbs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield subparser
                yield from parsers(subparser)


def test_help_is_complete():
    """Every verb is in one group and has a summary and an example, and every argument has a sentence."""
    parser = create_parser()
    verbs = list(parsers(parser))
    names = [verb.prog.split()[1] for verb in verbs if verb.prog.count(" ") == 1]
    assert sorted(names) == sorted(name for group in GROUPS.values() for name in group)
    for verb in verbs:
        assert verb.description and verb.description.endswith(".")
        if verb.get_default("function") is not None:
            assert verb.epilog and "Example:\n  " in verb.epilog, verb.prog
            for action in verb._actions:
                if action.help is not argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
                    text = str(action.help)
                    assert text[0].isupper() or text[0] == "`", (verb.prog, text)
                    assert text.endswith((".", ")")), (verb.prog, text)


def test_the_templates_of_the_help_exist():
    assert (tuple(TEMPLATES), DEFAULT_TEMPLATE) == (inference.TEMPLATES, inference.DEFAULT_TEMPLATE)


def test_an_unknown_verb_gets_a_suggestion(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["serch", "rain"])
    assert "there is no verb 'serch'; did you mean `slap search`?" in capsys.readouterr().err


ASK_BASH = """
source "$0"
complete -p slap > /dev/null
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_shtab_slap slap "${COMP_WORDS[COMP_CWORD]}" ""
echo "${COMPREPLY[@]}"
"""


@pytest.mark.process
def test_completion(tmp_path, capsys):
    """Bash completes a file. Other shells may not be installed, so only their scripts are checked for the commands."""
    (tmp_path / "sounds.wav").touch()
    for shell in ("zsh", "fish", "bash"):
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert all(verb in script for verb in ("caption", "completion", "evaluate", "index", "search", "train"))
    (tmp_path / "slap.bash").write_text(script)
    command = ["bash", "-c", ASK_BASH, "slap.bash", "slap", "caption", "soun"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "sounds.wav" and answer.stderr == ""


def test_completion_without_shtab(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "completion needs shtab, which is missing: pip install 'shtab" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "gs://b/clips", "x"],
        ["prepare", "clips", "gs://b/x"],
        ["prepare", "clips", "x", "--exclude", "gs://b/x:test"],
        ["prepare", "clips", "x", "--audio-root", "gs://b"],
        ["scenes", "gs://b/x"],
        ["tokenizer", "gs://b/x:train", "--vocab-size", "40", "--output", "x"],
        ["tokenizer", "x", "--vocab-size", "40", "--output", "gs://b/x.model"],
        ["stats", "gs://b/x"],
        ["data", "check", "collection", "gs://b/x"],
        ["data", "show", "--config", "x.py", "--output", "gs://b/x"],
        ["train", "--config", "x.py", "--run-dir", "gs://b/run"],
        ["aot", "--config", "gs://b/x.py", "--topology", "h100:8"],
        ["finetune", "--model", "x", "--task", "retrieval", "--data", "gs://b/x:train", "--run-dir", "x"],
        ["predict", "gs://b/x.wav", "--model", "x"],
        ["score", "gs://b/run"],
        ["ablations", "--config", "x.py", "--run-dir", "gs://b/x"],
        ["evaluate", "gs://b/run"],
        ["evaluate", "{root}/run", "--data", "x=gs://b/x:test:label"],
        ["probe", "{root}/run", "--data", "x=gs://b/x:test:label", "--test", "test"],
        ["table", "gs://b/x.json"],
        ["export", "gs://b/run"],
        ["doctor", "gs://b/run"],
        ["report", "gs://b/run"],
        ["embed", "gs://b/x.wav", "--json", "--model", "x"],
        ["classify", "gs://b/x.wav", "--labels", "a,b", "--model", "x"],
        ["caption", "x.wav", "--model", "gs://b/x"],
        ["frames", "x.wav", "--output", "gs://b/x", "--model", "x"],
        ["index", "gs://b/sounds", "--model", "x"],
        ["search", "rain", "--index", "gs://b/sounds", "--model", "x"],
        ["demo", "--folder", "gs://b/sounds", "--model", "x"],
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_a_url_is_refused_in_one_line(root, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert main([word.format(root=root) for word in command]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"slap[ a-z]*: gs://b\S* is a URL; mount the bucket, .* give the path of the mount\n", error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "{bad}", "{tmp}/out"],
        ["prepare", "{root}/recorded", "{bad}"],
        ["prepare", "{root}/recorded", "{tmp}/out", "--exclude", "{bad}:test"],
        ["data", "check", "collection", "{bad}"],
        ["stats", "{bad}"],
        ["evaluate", "{root}/run", "--data", "a={bad}:test"],
        ["export", "{root}/run", "--output", "{bad}"],
        ["index", "{bad}", "--model", "{root}/run/export"],
        ["embed", "{bad}/0.wav", "--json", "--model", "{root}/run/export"],
    ],
    ids=lambda command: command[0],
)
def test_a_path_that_is_not_utf8_is_refused_in_one_line(root, tmp_path, capsys, command):
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    shutil.copytree(root / "recorded", bad)
    assert main([word.format(root=root, bad=bad, tmp=tmp_path) for word in command]) == 2
    error = capsys.readouterr().err
    assert re.search(r"caf\\udce9\S* (is not a path in UTF-8; rename|has a name that is not UTF-8; rename)", error)
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_text_may_look_like_a_url(root, capsys):
    assert main(["embed", "--text", "http://rain", "--json", "--model", str(root / "run" / "export")]) == 0
    assert json.loads(capsys.readouterr().out)["names"] == ["http://rain"]


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(**_):
        raise ValueError("a bug")

    monkeypatch.setattr("slap_jax.data.datasets.synthetic_scenes.prepare_scenes", lambda output, **_: broken())
    with pytest.raises(ValueError, match="a bug"):
        main(["scenes", "x"])
