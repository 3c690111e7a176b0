"""The recipes of configs/finetune on tiny data in the layouts of the publishers, prepared by the real builders."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest

from slap_jax.checkpoints.read_model import read_model
from slap_jax.cli import main
from slap_jax.config.files import read_config
from slap_jax.config.rules import ConfigError
from slap_jax.config.validate import validate
from slap_jax.data.evaluation_set import load_evaluation
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.evaluation.held_out_loss import CaptionLoss
from slap_jax.inference.embedder import Embedder
from slap_jax.train import main as train
from slap_jax.training.metrics import read_metrics
from tests.data.datasets.publisher_files import write_csv
from tests.data.tiny_data import encoded
from tests.inference.tiny import noise

pytestmark = pytest.mark.process

RECIPES = Path(__file__).parents[2] / "configs" / "finetune"


def write_clip(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(noise(seed, 0.2 + 0.1 * (seed % 4))))


def publish_audiocaps(root: Path) -> None:
    header = ("audiocap_id", "youtube_id", "start_time", "caption")
    for split, first, count in (("train", 0, 10), ("val", 20, 3), ("test", 30, 3)):
        write_csv(
            root / f"{split}.csv",
            [header, *((c, f"video{c}", 30, f"a tone of {c}") for c in range(first, first + count))],
        )
        for clip in range(first, first + count):
            write_clip(root / "audio" / split / f"video{clip}.wav", clip)


def publish_clotho(root: Path) -> None:
    captions = ("file_name", *(f"caption_{n}" for n in range(1, 6)))
    facts = ("file_name", "keywords", "sound_id", "sound_link", "start_end_samples", "manufacturer", "license")
    for split, first, count in (("development", 40, 8), ("validation", 50, 3), ("evaluation", 60, 3)):
        names = [f"{clip}.wav" for clip in range(first, first + count)]
        rows = [(name, *(f"{name} sounds {n}" for n in range(5))) for name in names]
        write_csv(root / f"clotho_captions_{split}.csv", [captions, *rows])
        rows = [(name, "birds", "1", "", "[0, 9]", "somebody", "none") for name in names]
        write_csv(root / f"clotho_metadata_{split}.csv", [facts, *rows])
        for clip, name in enumerate(names, first):
            write_clip(root / split / name, clip)


def publish_esc50(root: Path) -> None:
    rows: list[tuple] = [("filename", "fold", "target", "category", "esc10", "src_file", "take")]
    for fold in range(1, 6):
        for number, category in enumerate(("dog", "sea_waves", "rain")):
            name = f"{fold}-{number}-A-0.wav"
            rows.append((name, fold, number, category, False, 0, "A"))
            write_clip(root / "audio" / name, 100 + 10 * fold + number)
    write_csv(root / "meta/esc50.csv", rows)


def publish_folder(root: Path) -> None:
    for split, first, count in (("train", 200, 9), ("val", 220, 3)):
        for clip in range(first, first + count):
            write_clip(root / split / f"{clip}.wav", clip)
            sidecar = {"captions": [f"sound {clip}"], "labels": [f"kind={('hiss', 'hum')[clip % 2]}"]}
            (root / split / f"{clip}.json").write_text(json.dumps(sidecar))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Every dataset, prepared with the commands of the recipes."""
    root = tmp_path_factory.mktemp("recipes")
    named = {"audiocaps": publish_audiocaps, "clotho": publish_clotho, "esc50": publish_esc50, "mine": publish_folder}
    for name, publish in named.items():
        publish(root / "published" / name)
        dataset = [] if name == "mine" else ["--dataset", name]
        assert main(["prepare", str(root / "published" / name), str(root / name), *dataset]) == 0
    return root


def recipe(name: str, base_model: Path, data: Path, **arguments: object):
    given = {"model": base_model, "data": data / {"folder": "mine"}.get(name, name), **arguments}
    text = ",".join(f"{key}={value}" for key, value in given.items())
    # Shorter rows than the recipe's: these clips are shorter, too.
    return read_config(f"{RECIPES / name}.py:{text}", ["--config.data.max_seconds=0.64", "--config.data.columns=4"])


RECIPE_METRICS = [
    ("audiocaps", {}, "retrieval/val/t2a_map10"),
    ("audiocaps", {"task": "captioning"}, "-caption_loss/val/nats_per_token"),
    ("clotho", {}, "retrieval/val/t2a_map10"),
    ("clotho", {"task": "captioning"}, "-caption_loss/val/nats_per_token"),
    ("esc50", {"fold": 5}, ""),  # the test fold must not select a step
    ("folder", {"task": "classification", "label": "kind"}, "classification/val/accuracy"),
]


@pytest.mark.parametrize(("name", "arguments", "metric"), RECIPE_METRICS)
def test_a_recipe_is_valid_on_any_number_of_hosts(base_model, data, name, arguments, metric):
    config = recipe(name, base_model, data, **arguments)
    validate(config, process_count=2, device_count=8)
    assert config.train.best_metric == metric


@pytest.mark.parametrize(("name", "arguments", "metric"), [RECIPE_METRICS[0], RECIPE_METRICS[3]])
def test_a_recipe_trains(base_model, data, tmp_path, capsys, caplog, name, arguments, metric):
    """Classification is trained by `test_finetune`."""
    config = recipe(name, base_model, data, **arguments)
    config.train.update(steps=3, evaluate_every=2)
    config.optimizer.warmup_steps = 1
    config.metrics.tensorboard = False
    with caplog.at_level(logging.INFO):
        assert train(config, tmp_path / "run") == 0
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    evaluated = {line["step"]: line for line in lines if metric.removeprefix("-") in line}
    assert list(evaluated) == [2, 3]  # the last step, too
    objective = "captioning" if arguments else "contrastive"
    for line in evaluated.values():
        assert np.isfinite(line[metric.removeprefix("-")])
        loss = line[f"held_out_loss/val/{objective}"]
        assert loss > 0 and line["held_out_loss/val/weighted_sum"] == loss
    best = read_model(tmp_path / "run" / "best").step
    assert best in evaluated

    console = capsys.readouterr().err
    number = "captions " if arguments else "t2a R@1 "
    for step in evaluated:
        assert re.search(
            rf"^step {step}: .*val {number}.*; val held-out loss \S+; evaluated in ", console, re.MULTILINE
        )
    assert f"best step {best}: " in caplog.text and f"next: slap evaluate {tmp_path}/run/best" in caplog.text
    after_start = caplog.text[caplog.text.index("starting at step") :]
    assert "attention:" not in after_start


def test_what_a_recipe_builds(base_model, data):
    esc50 = recipe("esc50", base_model, data, fold=2)
    assert esc50.data.train.esc50.split == "fold1+fold3+fold4+fold5" and esc50.data.evaluation.test.split == "fold2"
    assert esc50.objectives.classification.classes == ("dog", "rain", "sea waves")
    assert esc50.train.best_metric == "" and esc50.objectives.classification.mixup_probability == 0.5
    audiocaps = recipe("audiocaps", base_model, data)
    weights = {name: objective.weight for name, objective in audiocaps.objectives.items()}
    assert weights == {"contrastive": 1.0, "distillation": 0.0, "captioning": 0.0, "classification": 0.0}
    assert recipe("clotho", base_model, data, task="captioning").objectives.captioning.weight == 1.0
    with pytest.raises(ConfigError, match="fold=6; write 1 to 5"):
        recipe("esc50", base_model, data, fold=6)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda path: path.stem)
def test_the_docstring_of_a_recipe_has_its_commands(path):
    assert f"slap train --config configs/finetune/{path.name}:model=" in path.read_text()


def test_the_caption_loss_is_a_mean_over_tokens_for_any_batching(base_model, data):
    config = recipe("clotho", base_model, data, task="captioning")
    model, tokenizer = read_model(base_model), load_tokenizer(config.data.tokenizer)
    loss = CaptionLoss(config, Embedder(config), tokenizer, config.data.evaluation)
    whole = loss(model.params)["val"]
    clips = load_evaluation(config.data.evaluation.val.path, "validation")
    tokens = [len(tokenizer.encode(clip.captions[0], config.data.max_caption_tokens)) - 1 for clip in clips]
    assert whole["n_tokens"] == sum(tokens) and 0 <= whole["token_accuracy"] <= 1
    config.data.update(rows=1, slots=1)  # one clip per batch
    alone = CaptionLoss(config, Embedder(config), tokenizer, config.data.evaluation)(model.params)["val"]
    assert alone["nats_per_token"] == pytest.approx(whole["nats_per_token"], rel=1e-5)
