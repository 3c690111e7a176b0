"""The commands that prepare and inspect data, on tiny data."""

import json
import sys

import numpy as np
import pytest

from slap_jax.checkpoints.run import Checkpoints
from slap_jax.cli import main
from slap_jax.config.files import read_config
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.preparation import runners
from slap_jax.data.records import open_split, split_sizes
from slap_jax.data.tokenizer import load_tokenizer
from tests.data.datasets.publisher_files import write_csv, write_wav
from tests.data.tiny_data import tiny_dataset, tiny_tokenizer, write_manifest, write_tone

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


def test_stats_count_tokens_with_the_vocabulary_in_the_directory_or_next_to_it(root, tmp_path, capsys):
    assert main(["stats", str(root / "data"), "--clips", "5"]) == 0  # next to it
    printed = capsys.readouterr().out
    assert f"tokens    counted with {root}/tokenizer.model" in printed and "not counted" not in printed
    tiny_dataset(tmp_path / "deeper" / "data", 3, 1)
    assert main(["stats", str(tmp_path / "deeper" / "data")]) == 0
    assert "text not counted (--tokenizer FILE counts it)" in capsys.readouterr().out


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
        (["stats"], "slap stats: give either a prepared directory with its split or --config"),
        (["stats", "{root}/data", "nowhere"], "has no split 'nowhere'"),
        (["stats", "--config", "{root}/config.py", "--columns", "9"], "config.data.columns is 9"),
        (["stats", "--config", "{root}/config.py", "--tokenizer", "{root}/none.model"], "none.model is missing"),
        (["data", "show", "--config", "{root}/none.py", "--output", "{root}/x"], "slap data show: config file"),
        (["data", "show", "--config", "{root}/config.py", "--output", "{root}/x", "--rows", "0"], "at least one row"),
        (["data", "show", "--config", "{root}/config.py", "--output", "{root}/x", "--config.data.row=1"], "data.rows?"),
    ],
)
def test_user_errors_are_one_line(root, capsys, words, message):
    assert main([word.format(root=root) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Returns a manifest of five tones, two of which are the same."""
    folder = tmp_path_factory.mktemp("clips")
    frequencies = [200.0, 300.0, 400.0, 500.0, 200.0]
    names = [write_tone(folder / f"{index}.wav", 0.1, frequency=each) for index, each in enumerate(frequencies)]
    lines = [
        {"path": name, "caption": f"tone {name}", "split": "test" if name == "3.wav" else "train"} for name in names
    ]
    return write_manifest(folder, lines)


def test_prepare(manifest, tmp_path, capsys):
    words = ["prepare", str(manifest), str(tmp_path / "out"), "--name", "lab", "--shard-records", "2", "--workers", "1"]
    assert main([*words, "--drop-duplicates"]) == 0
    printed = capsys.readouterr().out
    assert "train: 3 clips" in printed and "clips with the audio of an earlier clip: 1 (dropped)" in printed
    assert split_sizes(tmp_path / "out") == {"train": 3, "test": 1}
    assert open_split(tmp_path / "out", "test")[0].source == "lab"
    assert len(list(tmp_path.glob("out/*/*/*-train.array_record-*"))) == 2
    words = ["prepare", str(manifest), str(tmp_path / "other"), "--name", "lab", "--exclude"]
    assert main([*words, f"{tmp_path / 'out'}:test"]) == 0
    assert "left out, excluded_evaluation: 1" in capsys.readouterr().out
    assert split_sizes(tmp_path / "other") == {"train": 4}


def test_options_are_passed_to_the_kind_of_collection(tmp_path):
    write_tone(tmp_path / "clips" / "dog.wav")
    (tmp_path / "clips" / "dog.txt").write_text("a dog barks")
    (tmp_path / "clips" / "metadata.csv").write_text("file_name,title,mood\ndog.wav,a dog,calm\n")
    for kind, expected in (("folder", ("a dog barks",)), ("audiofolder", ("a dog",))):
        words = ["--option", f"kind={kind}", *(["--option", "caption_columns=title"] if kind == "audiofolder" else [])]
        assert main(["prepare", str(tmp_path / "clips"), str(tmp_path / kind), *words]) == 0
        assert open_split(tmp_path / kind, "train")[0].captions == expected


@pytest.mark.process
def test_prepare_and_check_a_named_data_set(tmp_path, capsys):
    columns = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    clips = [(f"{fold}-{fold}-A-0.wav", fold, 0, "dog", True, fold, "A") for fold in range(1, 6)]
    write_csv(tmp_path / "ESC-50" / "meta/esc50.csv", [columns, *clips])
    for name, *_ in clips:
        write_wav(tmp_path / "ESC-50" / "audio" / name)
    assert main(["prepare", str(tmp_path / "ESC-50"), str(tmp_path / "data"), "--dataset", "esc50"]) == 0
    assert split_sizes(tmp_path / "data" / "esc50") == {f"fold{fold}": 1 for fold in range(1, 6)}
    capsys.readouterr()
    words = ["data", "check", str(tmp_path / "ESC-50"), "--dataset", "esc50"]
    assert main([*words, "--json"]) == 1  # 5 of 2,000 clips
    assert json.loads(capsys.readouterr().out)["splits"]["fold1"]["clips"] == 1
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert main(["data", "check", "esc50", str(tmp_path / "ESC-50")]) == 1  # the order of version 0.1
    assert capsys.readouterr().out == printed and "read as ESC-50" in printed


@pytest.mark.parametrize("name", ["collection", "manifest"])
def test_check_takes_what_prepare_takes(manifest, tmp_path, capsys, name):
    flat = write_manifest(manifest.parent, [{**json.loads(line), "split": "train"} for line in manifest.open()], "flat")
    flat = flat.rename(flat.with_suffix(".jsonl"))
    for source, options in ((manifest, ["--name", "lab"]), (flat, ["--split", "50/50", "--split-seed", "7"])):
        assert main(["data", "check", str(source), *options, "--max-rejected", "0", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert main(["prepare", str(source), str(tmp_path / source.name), *options, "--workers", "1"]) == 0
        capsys.readouterr()
        assert split_sizes(tmp_path / source.name) == {key: value["clips"] for key, value in report["splits"].items()}
        assert (report["source"], report["kind"], report["ready"]) == (str(source), "manifest", True)
    assert main(["data", "check", str(flat), "--decode", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{flat}, read as manifest\n") and printed.endswith("; 1 of them decoded\n")
    assert main(["data", "check", name, str(flat), "--decode", "1"]) == 0  # the order of version 0.1
    assert capsys.readouterr().out == printed
    assert main(["data", "check", str(manifest), "--split", "80/20"]) == 1
    assert "names its splits itself (manifest.jsonl:4 is in 'test')" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["esc50"], "esc50 is a name, not a path; write: slap data check SOURCE --dataset esc50"),
        (["manifest"], "manifest is a name, not a path; write: slap data check SOURCE"),
        (["folder", "{folder}"], "there are two sources, folder and {folder}; give one: slap data check folder"),
        (["esc50", "{folder}", "--dataset", "esc50"], "slap data check esc50 --dataset esc50"),
        (["{folder}/none"], "{folder}/none is missing; give a manifest, a folder, tars or tables"),
        (["{folder}", "--dataset", "esc"], "unknown dataset 'esc'"),
        (["{folder}/none", "--dataset", "esc50"], "is not a folder; expected ESC-50"),
        (["{folder}", "--option", "name=x"], "--option name=x; write --name instead"),
        (["{folder}", "--split", "80"], "--split 80 is not a list of percentages"),
        (["{folder}", "--exclude", "none:test"], "none does not exist"),
    ],
)
def test_errors_of_check_say_what_to_write(manifest, capsys, words, message):
    folder = manifest.parent
    assert main(["data", "check", *(word.format(folder=folder) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("slap data check: ") and message.format(folder=folder) in error


def test_another_source_is_replaced_only_with_replace(manifest, tmp_path, capsys):
    write_tone(tmp_path / "other" / "a.wav")
    (tmp_path / "other" / "a.txt").write_text("a tone")
    for source, options, code in (
        (manifest, [], 0),
        (tmp_path / "other", [], 2),
        (tmp_path / "other", ["--replace"], 0),
    ):
        words = ["prepare", str(source), str(tmp_path / "out"), "--workers", "1", *options]
        assert main(words) == code
    error = capsys.readouterr().err
    assert "holds 5 clips of another source (0 of them are in" in error and error.count("\n") == 1
    assert split_sizes(tmp_path / "out") == {"train": 1}


def test_flags_of_the_runner_are_passed_on(manifest, tmp_path, monkeypatch):
    calls = []

    def run_beam(plans, staging, flags):
        calls.append((len(plans), flags))
        runners.run_local(plans, staging, 1)

    monkeypatch.setattr(runners, "run_beam", run_beam)
    words = ["prepare", str(manifest), str(tmp_path / "out"), "--runner", "FlinkRunner"]
    assert main([*words, "--flink_master", "host:8081", "--parallelism=4"]) == 0
    assert calls == [(2, ["--runner", "FlinkRunner", "--flink_master", "host:8081", "--parallelism=4"])]


def test_tokenizer_of_a_config(root, tmp_path, capsys):
    words = ["tokenizer", "--config", str(root / "config.py"), "--vocab-size", "60", "--output"]
    assert main([*words, str(tmp_path / "all.model")]) == 0
    assert "pieces from 48 captions" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "few.model"), "--max-captions", "20"]) == 0
    assert "pieces from 20 captions" in capsys.readouterr().out
    assert main(["tokenizer", str(root / "data"), f"{root}/data:test", *words[3:], str(tmp_path / "two.model")]) == 0
    assert "pieces from 60 captions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["prepare", "{manifest}", "x", "--option", "splits=train"],
            "read as manifest, which has no option 'splits'; it has",
        ),
        (
            ["prepare", "{manifest}", "x", "--dataset", "esc50", "--name", "y"],
            "--audio-root and --name do not apply to a published",
        ),
        (["prepare", "{manifest}", "x", "--dataset", "esc"], "unknown dataset 'esc'"),
        (["prepare", "{manifest}", "x", "--dataset", "esc50", "--option", "x"], "--option x is not NAME=VALUE"),
        (
            ["prepare", "{manifest}", "x", "--runner", "DirectRunner", "--workers", "2"],
            "--workers applies to this machine",
        ),
        (["prepare", "{manifest}", "x", "--exclude", "data"], "is not PATH:SPLIT of prepared data"),
        (["prepare", "{manifest}", "x", "--exclude", "data:test"], "data does not exist"),
        (
            ["tokenizer", "--vocab-size", "9", "--output", "x"],
            "slap tokenizer: give either prepared directories or --config",
        ),
    ],
)
def test_errors_of_preparation_write_nothing(manifest, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main([word.format(manifest=manifest) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_runner_without_beam_says_what_to_install(manifest, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert main(["prepare", str(manifest), str(tmp_path / "out"), "--runner", "FlinkRunner"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'slap-jax[beam]'" in error and error.count("\n") == 1
