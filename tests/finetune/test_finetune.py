"""A classifier as a user sees it: fine-tune, stop early, predict, score, export, and the messages for mistakes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from huggingface_hub import ModelCard

from slap_jax.checkpoints.read_model import read_model
from slap_jax.cli import main
from slap_jax.config.defaults import source
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import make_record, open_split
from slap_jax.finetune.config import finetune_config
from slap_jax.inference.classifier import load_classifier
from slap_jax.training.metrics import read_metrics
from tests.data.tiny_data import tone

pytestmark = pytest.mark.process

PITCHES = {"low": 200.0, "high": 3_000.0}


def pitch_record(index: int, **fields):
    """A tone whose class is one of two pitches."""
    name = list(PITCHES)[index % 2]
    samples = tone(0.3 + 0.05 * (index % 5), PITCHES[name] * (1 + 0.02 * (index % 7)))
    return make_record(f"clip-{index}", samples, [], source="pitches", labels=(f"pitch={name}", "plain"), **fields)


@pytest.fixture(scope="module")
def pitches(tmp_path_factory) -> Path:
    """Clips with labels and no captions."""
    directory = tmp_path_factory.mktemp("pitches") / "pitches"
    sizes = {"train": (0, 32), "val": (32, 44), "test": (44, 56)}
    splits = {name: (end - start, [pitch_record(i) for i in range(start, end)]) for name, (start, end) in sizes.items()}
    prepare_records(splits, directory, {"pitches": 1}, log=lambda line: None)
    return directory


@pytest.fixture(scope="module")
def run_dir(base_model, pitches, tmp_path_factory) -> Path:
    """A classifier whose training stopped early."""
    directory = tmp_path_factory.mktemp("runs") / "pitch"
    command = ["finetune", "--model", str(base_model), "--task", "classification", "--data", str(pitches)]
    command += ["--run-dir", str(directory), "--clips", "16", "--max-seconds", "0.64", "--epochs", "40"]
    command += ["--learning-rate", "0.02", "--mixup", "0.25", "--balance", "0.5", "--patience", "3"]
    assert main([*command, "--freeze", "patch_embedding", "--config.metrics.tensorboard=False"]) == 0
    return directory


def test_learns_stops_early_and_keeps_the_best_step(run_dir, base_model):
    history = json.loads((run_dir / "best.json").read_text())
    values = dict(history["evaluations"])
    assert history["metric"] == "classification/val/accuracy" and history["value"] == max(values.values()) > 0.8
    assert history["stopped_early"]
    config = json.loads((run_dir / "config.json").read_text())
    assert max(values) < config["train"]["steps"]
    assert config["objectives"]["classification"]["classes"] == ["high", "low"]
    assert [path.name for path in (run_dir / "best" / "checkpoints").iterdir()] == [str(history["step"])]
    assert read_model(run_dir / "best").step == history["step"]
    lines = read_metrics(run_dir / "metrics.jsonl")
    evaluated = {
        line["step"]: line["classification/val/accuracy"] for line in lines if "classification/val/accuracy" in line
    }
    assert evaluated == values
    losses = [line["held_out_loss/val/classification"] for line in lines if "held_out_loss/val/classification" in line]
    assert history["held_out_losses"] == [[step, loss] for step, loss in zip(values, losses, strict=True)]
    of_equal = [loss for loss, value in zip(losses, values.values(), strict=True) if value == history["value"]]
    assert history["held_out_loss"] == min(of_equal)
    assert losses[0] > losses[-1] < 0.6  # lower than that of an untrained head, which is log 2

    before, after = read_model(base_model).params["model"], read_model(run_dir).params["model"]
    for frozen in ("text_encoder", "text_pooling", "audio_projection"):
        np.testing.assert_equal(after[frozen], before[frozen])
    np.testing.assert_array_equal(
        after["audio_encoder"]["patch_embedding"]["kernel"], before["audio_encoder"]["patch_embedding"]["kernel"]
    )
    layers = [params["audio_encoder"]["transformer"]["norm"]["scale"] for params in (before, after)]
    assert np.abs(layers[0] - layers[1]).max() > 0


def test_the_same_command_does_nothing_after_the_end(run_dir, base_model, pitches):
    before = (run_dir / "best.json").read_text()
    command = ["finetune", "--model", str(base_model), "--task", "classification", "--data", str(pitches)]
    command += ["--run-dir", str(run_dir), "--clips", "16", "--max-seconds", "0.64", "--epochs", "40"]
    command += ["--learning-rate", "0.02", "--mixup", "0.25", "--balance", "0.5", "--patience", "3"]
    assert main([*command, "--freeze", "patch_embedding", "--config.metrics.tensorboard=False"]) == 0
    assert (run_dir / "best.json").read_text() == before


def test_predictions_of_a_run_and_of_its_export_have_names_and_are_the_same(run_dir, pitches, tmp_path, capsys):
    assert main(["export", str(run_dir / "best")]) == 0
    exported = str(run_dir / "best" / "export")
    files = []
    for record in open_split(pitches, "test"):
        files.append(str(tmp_path / f"{record.id}.wav"))
        soundfile.write(files[-1], record.waveform(), 16_000)
    capsys.readouterr()
    assert main(["predict", *files, "--model", exported, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["results"]
    assert list(result) == files and all(set(scores) == set(PITCHES) for scores in result.values())
    assert sum(result[files[0]].values()) == pytest.approx(1.0, abs=1e-6)
    again = load_classifier(run_dir / "best").predict(files[:2])
    assert again == [result[file] for file in files[:2]]
    assert main(["predict", files[0], "--model", exported, "--top", "1"]) == 0
    assert capsys.readouterr().out.count(",") == 0

    (tmp_path / "broken.wav").write_bytes(b"RIFFnothing")  # reported, and the rest of the folder is processed
    assert main(["predict", str(tmp_path), "--model", exported, "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["results"] == result
    assert "broken.wav" in captured.err and "1 left out" in captured.err
    assert main(["predict", str(tmp_path / "broken.wav"), "--model", exported]) == 2
    assert capsys.readouterr().err.startswith(f"slap predict: {tmp_path / 'broken.wav'} is not readable as audio")

    output = tmp_path / "scores.json"
    assert main(["score", exported, "--data", f"held_out={pitches}:test", "--output", str(output)]) == 0
    assert "held_out, pitch" in capsys.readouterr().out
    scores = json.loads(output.read_text())["classification"]["held_out"]
    right = [next(iter(result[file])) == list(PITCHES)[(44 + index) % 2] for index, file in enumerate(files)]
    assert scores["accuracy"] == pytest.approx(np.mean(right)) and scores["n"] == 12
    low, high = scores["interval"]
    assert low <= scores["accuracy"] <= high and scores["n_unknown"] == 0


def test_evaluation_scores_the_head_and_reaches_the_card(run_dir, base_model, pitches, tmp_path, capsys):
    """A model that was trained on labels is scored by its head, never by its untrained texts."""
    best = shutil.copytree(run_dir / "best", tmp_path / "best")
    assert main(["export", str(best)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(best), "--data", f"test={pitches}:test"]) == 0
    printed = capsys.readouterr().out
    results = json.loads((best / "evaluation.json").read_text())
    scores = results["classification"]["test"]
    assert results["retrieval"] == {} and results["zero_shot"] == {}
    assert f"{scores['accuracy']:.3f} (" in printed and "trained head" in printed and "zero-shot" not in printed
    assert scores["chance"] == 0.5 and set(scores["per_class"]) == set(PITCHES) == set(scores["confusion"])
    assert len(scores["mistakes"]) == scores["n_mistakes"] == round(12 * (1 - scores["accuracy"]))

    card = (best / "export" / "README.md").read_text()
    assert f"| trained classification head | test | accuracy | {scores['accuracy']:.3f} |" in card
    assert "slap predict" in card and "`high`, `low`." in card and "model.classify(" not in card
    assert f"Training started from the parameters of `{base_model.parent.name}`, so" in card  # not of `export`
    assert ModelCard(card).data["pipeline_tag"] == "audio-classification"
    assert {result.task_type for result in ModelCard(card).data["eval_results"]} == {"audio-classification"}

    assert main(["evaluate", str(best), "--data", f"test={pitches}:test:pitch", "--measure", "zero_shot"]) == 0
    assert "zero-shot" in capsys.readouterr().out  # if it is asked for
    assert main(["evaluate", str(best), "--data", f"test={pitches}:test:genre"]) == 2
    assert "names the label 'genre', and the trained head predicts 'pitch'" in capsys.readouterr().err


def test_classify_points_to_the_trained_head(run_dir, base_model, pitches, tmp_path, capsys):
    best = shutil.copytree(run_dir / "best", tmp_path / "best")
    assert main(["export", str(best)]) == 0
    sound = str(tmp_path / "sound.wav")
    soundfile.write(sound, open_split(pitches, "test")[0].waveform(), 16_000)
    for model, says in ((best / "export", True), (base_model, False)):
        capsys.readouterr()
        assert main(["classify", sound, "--labels", "low,high", "--model", str(model)]) == 0
        captured = capsys.readouterr()
        assert ("has a trained head for 'pitch', which `slap predict` uses" in captured.err) == says
        assert "trained head" not in captured.out


def test_evaluation_names_the_sets_without_the_label(run_dir, pitches, train_data, capsys):
    sets = ["--data", f"test={pitches}:test", "--data", f"scenes={train_data}/scenes:test"]
    assert main(["evaluate", str(run_dir / "best"), *sets, "--output", str(run_dir / "two.json")]) == 1
    assert "not evaluated: scenes, classification: evaluation set 'scenes'" in capsys.readouterr().out
    assert main(["evaluate", str(run_dir / "best"), *sets[2:]]) == 2
    assert "no clip has the label 'pitch', which the model predicts" in capsys.readouterr().err


def test_the_head_of_a_model_without_one(base_model, train_data, capsys):
    command = ["evaluate", str(base_model), "--data", f"scenes={train_data}/scenes:test", "--measure", "classification"]
    assert main(command) == 2
    assert "the model has no classification head" in capsys.readouterr().err


def test_another_classifier_can_start_from_this_one(run_dir, pitches, tmp_path):
    config = finetune_config(str(run_dir / "best"), "classification", {"pitches": source(str(pitches), "train")})
    assert config.init_from == str(run_dir / "best") and config.data.tokenizer
    assert config.model.audio_encoder.width == 16 and config.data.evaluation.to_dict() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--task", "classification", "--label", "genre"],
            "no clip in split 'train' of {data} has the label 'genre'; its label keys: pitch",
        ),
        (
            ["--task", "retrieval"],
            "no clip in split 'train' of {data} has a caption, and retrieval learns from captions; it has labels",
        ),
        (["--task", "captioning"], "has a caption, and captioning learns from captions"),
        (["--task", "classification", "--data", "{data}:dev"], "{data} has no split 'dev'; it has train, val, test"),
        (
            ["--task", "classification", "--validation", "{scenes}"],
            "has no validation split, but train, test; name one",
        ),
        (
            ["--task", "classification", "--model", "nowhere"],
            "nowhere is not a directory; give a directory that `slap train`",
        ),
        (["--task", "classification", "--model", "{scenes}"], "holds neither model.safetensors nor config.json"),
        (["--task", "classification", "--config.train.stepps=3"], "config.train.stepps is not a setting; did you mean"),
        (["--task", "classification", "--freeze", "audoi"], "no parameter's path matches 'audoi'"),
        (
            ["--task", "classification", "--validation", "{scenes}:test"],
            "evaluation set 'val' ({scenes}, split 'test'): no clip has the label 'pitch'",
        ),
    ],
)
def test_user_errors_are_one_line(base_model, pitches, train_data, tmp_path, capsys, arguments, message):
    names = {"data": str(pitches), "scenes": str(train_data / "scenes")}
    arguments = [argument.format(**names) for argument in arguments]
    command = ["finetune", "--run-dir", str(tmp_path / "run"), *arguments]
    command += [] if "--model" in arguments else ["--model", str(base_model)]
    command += [] if "--data" in arguments else ["--data", str(pitches)]
    assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("slap finetune: ") and message.format(**names) in error


def test_a_model_without_a_head_says_so(base_model, capsys):
    assert main(["predict", "x.wav", "--model", str(base_model)]) == 2
    assert (
        "has no classification head; give a model that `slap finetune --task classification`" in capsys.readouterr().err
    )


def test_few_steps_are_said_with_what_gives_more(base_model, pitches, caplog):
    data = {"pitches": source(str(pitches), "train")}
    config = finetune_config(str(base_model), "classification", data, epochs=6, max_seconds=0.64, clips_per_step=64)
    assert config.train.steps == 6
    said = re.search(r"6 steps are few for 32 clips; --clips (\d+) gives (\d+), --epochs 100 gives 100", caplog.text)
    assert said
    clips, steps = map(int, said.groups())
    fewer = finetune_config(str(base_model), "classification", data, epochs=6, max_seconds=0.64, clips_per_step=clips)
    assert fewer.train.steps == steps > 6
    caplog.clear()
    finetune_config(str(base_model), "classification", data, epochs=100, max_seconds=0.64)
    assert "steps are few" not in caplog.text


def test_a_clip_with_two_classes_needs_multi_label(base_model, tmp_path):
    silence = np.zeros(1_600, np.int16)
    labels = [("tag=a", "tag=b"), ("tag=b",), ("tag=a", "tag=c"), ()]
    records = [make_record(f"c{i}", silence, [], labels=one) for i, one in enumerate(labels)]
    prepare_records({"train": (4, records)}, tmp_path / "tags", {"tags": 1}, log=lambda line: None)
    train = {"tags": source(str(tmp_path / "tags"), "train")}
    with pytest.raises(ValueError, match=r"record /c0 in .* has 2 values of the label 'tag' \(a, b\).*--multi-label"):
        finetune_config(str(base_model), "classification", train)
    config = finetune_config(str(base_model), "classification", train, multi_label=True, balance=1.0)
    settings = config.objectives.classification
    assert settings.classes == ("a", "b", "c") and settings.multi_label
    np.testing.assert_allclose(settings.class_weights, np.array([0.5, 0.5, 1.0]) * 5 / 3)
