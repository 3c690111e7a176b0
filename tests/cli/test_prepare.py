"""The verbs that make data, on tiny data."""

import json
import sys

import pytest

from slap_jax.cli import main
from slap_jax.data.preparation import runners
from slap_jax.data.records import open_split, split_sizes
from tests.data.datasets.publisher_files import write_csv, write_wav
from tests.data.tiny_data import tiny_dataset, write_manifest, write_tone

CONFIG = """
from slap_jax.config import default_config, source


def get_config(arg=None):
    config = default_config()
    config.data.train.tiny = source({data!r}, "train")
    return config
"""


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
    assert "train: 3 clips" in printed and "1 clips have the audio of an earlier one (dropped)" in printed
    assert split_sizes(tmp_path / "out") == {"train": 3, "test": 1}
    assert open_split(tmp_path / "out", "test")[0].source == "lab"
    assert len(list(tmp_path.glob("out/*/*/*-train.array_record-*"))) == 2
    words = ["prepare", str(manifest), str(tmp_path / "other"), "--name", "lab", "--exclude"]
    assert main([*words, f"{tmp_path / 'out'}:test"]) == 0
    assert "left out, excluded_evaluation: 1" in capsys.readouterr().out
    assert split_sizes(tmp_path / "other") == {"train": 4}


def test_options_reach_the_kind_of_collection(tmp_path):
    write_tone(tmp_path / "clips" / "dog.wav")
    (tmp_path / "clips" / "dog.txt").write_text("a dog barks")
    (tmp_path / "clips" / "metadata.csv").write_text("file_name,title,mood\ndog.wav,a dog,calm\n")
    for kind, expected in (("folder", ("a dog barks",)), ("audiofolder", ("a dog",))):
        words = ["--option", f"kind={kind}", *(["--option", "caption_columns=title"] if kind == "audiofolder" else [])]
        assert main(["prepare", str(tmp_path / "clips"), str(tmp_path / kind), *words]) == 0
        assert open_split(tmp_path / kind, "train")[0].captions == expected


def test_prepare_and_check_a_named_data_set(tmp_path, capsys):
    columns = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    clips = [(f"{fold}-{fold}-A-0.wav", fold, 0, "dog", True, fold, "A") for fold in range(1, 6)]
    write_csv(tmp_path / "ESC-50" / "meta/esc50.csv", [columns, *clips])
    for name, *_ in clips:
        write_wav(tmp_path / "ESC-50" / "audio" / name)
    assert main(["prepare", str(tmp_path / "ESC-50"), str(tmp_path / "data"), "--dataset", "esc50"]) == 0
    assert split_sizes(tmp_path / "data" / "esc50") == {f"fold{fold}": 1 for fold in range(1, 6)}
    capsys.readouterr()
    assert main(["data", "check", "esc50", str(tmp_path / "ESC-50"), "--json"]) == 1  # 5 of 2,000 clips
    assert json.loads(capsys.readouterr().out)["splits"]["fold1"]["clips"] == 1


def test_flags_of_the_engine_are_passed_on(manifest, tmp_path, monkeypatch):
    calls = []

    def run_beam(plans, staging, flags):
        calls.append((len(plans), flags))
        runners.run_local(plans, staging, 1)

    monkeypatch.setattr(runners, "run_beam", run_beam)
    words = ["prepare", str(manifest), str(tmp_path / "out"), "--runner", "FlinkRunner"]
    assert main([*words, "--flink_master", "host:8081", "--parallelism=4"]) == 0
    assert calls == [(2, ["--runner", "FlinkRunner", "--flink_master", "host:8081", "--parallelism=4"])]


def test_tokenizer_of_a_config(prepared, tmp_path, capsys):
    words = ["tokenizer", "--config", str(prepared / "config.py"), "--vocab-size", "60", "--output"]
    assert main([*words, str(tmp_path / "all.model")]) == 0
    assert "pieces from 48 captions" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "few.model"), "--max-captions", "20"]) == 0
    assert "pieces from 20 captions" in capsys.readouterr().out
    assert (
        main(["tokenizer", str(prepared / "data"), f"{prepared}/data:test", *words[3:], str(tmp_path / "two.model")])
        == 0
    )
    assert "pieces from 60 captions" in capsys.readouterr().out


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Returns a folder with prepared data of 24 and 6 clips with two captions each, and a config of the former."""
    folder = tmp_path_factory.mktemp("prepared")
    data = tiny_dataset(folder / "data")
    (folder / "config.py").write_text(CONFIG.format(data=str(data)))
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["prepare", "{manifest}", "x", "--option", "splits=train"],
            "read as manifest, which has no option 'splits'; it has",
        ),
        (["prepare", "{manifest}", "x", "--dataset", "esc50", "--name", "y"], "--audio-root and --name are for collec"),
        (["prepare", "{manifest}", "x", "--dataset", "esc"], "unknown dataset 'esc'"),
        (["prepare", "{manifest}", "x", "--dataset", "esc50", "--option", "x"], "--option x is not NAME=VALUE"),
        (["prepare", "{manifest}", "x", "--runner", "DirectRunner", "--workers", "2"], "--workers is for this machine"),
        (["prepare", "{manifest}", "x", "--exclude", "data"], "is not PATH:SPLIT of prepared data"),
        (["prepare", "{manifest}", "x", "--exclude", "data:test"], "data does not exist"),
        (["tokenizer", "--vocab-size", "9", "--output", "x"], "slap tokenizer: give prepared directories, or --config"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(manifest, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main([word.format(manifest=manifest) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_engine_without_beam_says_what_to_install(manifest, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert main(["prepare", str(manifest), str(tmp_path / "out"), "--runner", "FlinkRunner"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'slap-jax[beam]'" in error and error.count("\n") == 1
