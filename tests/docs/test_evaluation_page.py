"""Runs the commands of docs/evaluation.md as printed, and compares its tables with the code."""

import json
import re
import shutil
from pathlib import Path

import pytest

from slap_jax.cli import main
from slap_jax.config.defaults import source
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import make_record
from slap_jax.evaluation.suites import SETS, SUITES
from slap_jax.inference.prompts import TEMPLATES
from tests.data.tiny_data import damage_audio
from tests.docs.run_page import ROOT, run_page
from tests.evaluation.published_folders import prepare_published
from tests.inference.tiny import CAPTIONS, noise, tiny_config, tiny_tokenizer, write_run

pytestmark = pytest.mark.process

PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
ZERO_SHOT = ("esc50", "urbansound8k", "crema_d", "ravdess", "gtzan", "gtzan_filtered", "vggsound", "nsynth")


def own_data(path: Path) -> None:
    """Two splits of clips with captions, regions, a kind, and a speaker."""

    def records(first, count):
        for n in range(first, first + count):
            labels = (f"kind={'ab'[n % 2]}", f"speaker={n // 2}")
            regions = ((0.0, 0.9, CAPTIONS[n]), (1.1, 1.8, CAPTIONS[20 + n]))
            yield make_record(f"{n}", noise(n, 2.0), [CAPTIONS[n]], labels=labels, regions=regions, source="mine")

    splits = {"train": (8, list(records(0, 8))), "test": (8, list(records(8, 8)))}
    prepare_records(splits, path, {}, log=lambda line: None)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The working directory of the page, after its commands have run."""
    root = tmp_path_factory.mktemp("page")
    folders = (*ZERO_SHOT, "speech_commands", "fsd50k", "audioset", "audiocaps", "clotho")
    prepare_published(root / "publishers", root / "data", folders)
    own_data(root / "data/mine")
    config = tiny_config()
    config.data.tokenizer = str(tiny_tokenizer(root / "words.model").path)
    config.data.train.clips = source("data/mine", "train")
    config.data.evaluation.clips = source("data/mine", "test")
    write_run(root / "runs/demo", config)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("slap_jax.evaluation.captioning.find_java", lambda: None)
        assert main(["export", "runs/demo"]) == 0
        run_page("evaluation")
    return root


def read(path):
    return json.loads(path.read_text())


def test_every_command_left_its_file(page):
    for name in ("evaluation", "evaluation_zero_shot", "evaluation_retrieval", "probe"):
        assert read(page / f"runs/demo/{name}.json")["model"]["trained_on"] == ["mine"]
    result = read(page / "mine.json")
    assert set(result["zero_shot"]["mine"]) >= set(re.findall(r'"zero_shot": \{"scenes": \{"(\w+)"', PAGE))
    assert result["model"]["trained_on"] is None
    captions = read(page / "captions.json")["captioning"]["mine"]
    assert captions["decoding"] == {"beam": 3} and captions["n_clips"] == 8 and 0 <= captions["cider_d"] <= 10
    assert read(page / "frames.json")["frames"]["mine"]["by"] == "region"
    assert read(page / "probe.json")["probe"]["mine_knn_dense"]["n"] == 8
    assert "AuroLA, README of its repository" in (page / "table.md").read_text()
    assert "audiocaps, retrieval" in (page / "table.html").read_text()


def test_a_run_and_its_export_are_one_model(page):
    of_run, of_export = read(page / "runs/demo/evaluation.json"), read(page / "mine.json")
    assert of_run["model"]["model_id"] == of_export["model"]["model_id"]
    assert of_run["retrieval"]["clips"] == of_export["retrieval"]["mine"]


def test_every_key_of_the_page_is_in_the_results(page):
    result = read(page / "mine.json")
    keys = {*result, *result["model"], *result["retrieval"]["mine"], *result["zero_shot"]["mine"]}
    table = PAGE[PAGE.index("| key | |") :].split("\n\n")[0]
    named = {key for cell in re.findall(r"^\| (.*?) \|", table, re.M) for key in re.findall(r"`(\w+)`", cell)}
    assert {"set_size", "model_id", "crop"} <= named
    assert named - {"words"} <= keys  # the last only if a set has them


def test_tables_match_the_code():
    rows = re.findall(r"^\| (.+?) \| `(\w+)` \| .+? \| .+? \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.M)
    suggested = {folder: (prompt, probe) for _, folder, prompt, _, probe in rows}
    for row in SETS:
        folder = row.folder or row.dataset
        if row.kind.startswith("zero_shot"):
            assert f"`{row.template}`" in suggested[folder][0], folder
        if row.kind == "probe":
            assert suggested[folder][1] != "–", folder
    assert len(suggested) == 11
    assert all(f"| `{suite}` |" in PAGE for suite in SUITES)
    for name in ("ensemble", "sound", "heard", "plain"):
        assert all(f"`{prompt}`" in PAGE for prompt in TEMPLATES[name])


def test_a_suite_without_its_data_says_how_to_get_it(page, capsys, monkeypatch):
    monkeypatch.chdir(page)
    assert main(["evaluate", "runs/demo", "--suite", "frames", "--data-dir", "data", "--output", "x.json"]) == 1
    printed = capsys.readouterr().out
    assert "audioset, by class" in printed
    assert "slap prepare PUBLISHERS_FOLDER data/tacos --dataset tacos --option splits=test" in printed
    assert list(read(page / "x.json")["missing"]) == ["tacos, frames"]


@pytest.mark.parametrize("arguments", [["zero_shot", "--multi-label"], ["zero_shot_multi_label"]])
def test_several_labels_per_clip_are_written_and_printed(page, capsys, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(page)
    command = ["evaluate", "runs/demo/export", "--data", "mine=data/mine:test:kind", "--measure", *arguments]
    assert main([*command, "--output", str(tmp_path / "several.json")]) == 0
    scores = read(tmp_path / "several.json")["zero_shot_multi_label"]["mine"]
    assert f"{scores['map']:.3f}" in capsys.readouterr().out and "accuracy" not in scores


def test_results_are_written_before_they_are_printed(page, monkeypatch, tmp_path):
    """A failure while printing must not lose the results."""

    def broken(results):
        raise ZeroDivisionError

    monkeypatch.chdir(page)
    monkeypatch.setattr("slap_jax.evaluation.text_table.table", broken)
    command = ["evaluate", "runs/demo/export", "--data", "mine=data/mine:test", "--output", str(tmp_path / "x.json")]
    with pytest.raises(ZeroDivisionError):
        main(command)
    assert read(tmp_path / "x.json")["retrieval"]["mine"]["n_clips"] == 8


def test_a_damaged_set_does_not_prevent_the_others_from_being_measured(page, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(page)
    for name in ("esc50", "ravdess"):
        shutil.copytree(page / "data" / name, tmp_path / name)
    damage_audio(tmp_path / "esc50", "fold2", "2-1-A-0")
    command = ["evaluate", "runs/demo/export", "--suite", "zero_shot", "--data-dir", str(tmp_path), "--json"]
    assert main(command) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["zero_shot"]["ravdess"]["n"] == 8 and "esc50" not in result["zero_shot"]
    assert "2-1-A-0" in result["missing"]["esc50, zero_shot"]
    assert result["bootstrap"] == {"seed": 0, "resamples": 1_000, "level": 0.95}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--suite", "retrieval"], "--suite needs --data-dir DIR"),
        (["--suite", "music", "--data-dir", "data"], "there is no suite 'music'; choose one of paper, retrieval"),
        (["--suite", "frames", "--data-dir", "nowhere"], "no set of suite 'frames' can be evaluated"),
        (["--suite", "frames", "--data", "a=b:c"], "give either --suite or --data"),
        (["--suite", "frames", "--measure", "frames"], "leave out --measure, --template and --multi-label"),
        (["--suite", "zero_shot", "--template", "plain"], "leave out --measure, --template and --multi-label"),
        (["--suite", "zero_shot", "--multi-label"], "leave out --measure, --template and --multi-label"),
        (["--data-dir", "data"], "--data-dir belongs to --suite SUITE"),
        (["--data", "a=data/mine:test", "--measure", "song"], "'song' is not a measure; choose of retrieval"),
        (
            ["--data", "a=data/mine:test", "--measure", "captioning", "--scores", "bert"],
            "there is no caption score 'bert'",
        ),
        (["--data", "a=data/esc50:fold1", "--measure", "captioning"], "captioning needs clips with captions"),
    ],
)
def test_errors_of_evaluate(page, capsys, monkeypatch, command, message):
    monkeypatch.chdir(page)
    assert main(["evaluate", "runs/demo/export", *command]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["--data", "mine=data/mine:test:kind"],
            "give either --folds LABEL[:N], to test every part in turn, or --test SPLIT",
        ),
        (["--data", "mine=data/mine:test", "--folds", "speaker"], "names no label to predict"),
        (["--data", "mine=data/mine:test:kind", "--folds", "speaker:two"], "is not LABEL or LABEL:NUMBER"),
        (["--data", "mine=data/mine:test:kind", "--folds", "singer"], "no clip has the label 'singer'"),
        (["--data", "mine=data/mine:test:kind", "--test", "test"], "found 0 clips to train on and 8 to test on"),
    ],
)
def test_errors_of_probe(page, capsys, monkeypatch, command, message):
    monkeypatch.chdir(page)
    assert main(["probe", "runs/demo/export", *command]) == 2
    assert message in capsys.readouterr().err


def test_errors_of_table(page, capsys, monkeypatch):
    monkeypatch.chdir(page)
    assert main(["table", "runs/demo/config.json"]) == 2
    assert "config.json holds no results; give a file that `slap evaluate` wrote" in capsys.readouterr().err
    assert main(["table", "mine.json"]) == 0
    assert capsys.readouterr().out.startswith("# Results next to published figures")
