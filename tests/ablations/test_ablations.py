"""The driver skips finished runs and rejects changed settings; the table pairs runs by seed; one complete run."""

import json
from pathlib import Path

import numpy as np
import pytest

from slap_jax.ablations import VARIANTS
from slap_jax.ablations.run import (
    query_outcomes,
    read_outcomes,
    result_file,
    run,
    run_all,
    run_settings,
    variant_argument,
    write_table,
)
from slap_jax.ablations.table import BEGIN, PAPER, TITLES, AblationError, Outcome, estimate, markdown, put_into
from slap_jax.checkpoints.read_model import read_model
from slap_jax.cli import main
from slap_jax.config.defaults import source
from slap_jax.config.files import read_config
from slap_jax.config.validate import validate
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.evaluation.evaluate import evaluate
from slap_jax.evaluation.task import load_tasks
from slap_jax.inference.embedder import Embedder
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[2]
CORPUS = str(ROOT / "configs" / "ablations" / "corpus.py")
CLIPS = 40


def facts(config: str, variant: str, seed: int, shift: float = 0.0) -> dict:
    """Writes the files of a run with two captions per clip. A fraction `shift` more of the queries are correct."""
    generator = np.random.default_rng(seed)  # the same queries are hard for all variants of a seed
    ranks = {name: generator.random(count) for name, count in (("t2a", 2 * CLIPS), ("a2t", CLIPS))}
    hits = {name: np.where(values < 0.3 + shift, 1, 7) for name, values in ranks.items()}
    return {
        "variant": variant,
        "seed": seed,
        "settings": run_settings(read_config(variant_argument(config, variant, seed))),
        "steps": 300,
        "audio_seconds": 7_200.0,
        "clips": CLIPS,
        "captions": 2 * CLIPS,
        "split_fingerprint": "same",
        "owner": np.repeat(np.arange(CLIPS), 2).tolist(),
        **{name: {"rank": rank.tolist(), "ap10": (1 / rank).tolist()} for name, rank in hits.items()},
    }


def finish(run_dir: Path, variant: str, seed: int, shift: float = 0.0) -> Path:
    file = result_file(run_dir, variant, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(facts(CORPUS, variant, seed, shift)))
    return file


def test_every_variant_is_a_valid_config_with_the_same_data():
    assert set(TITLES) == set(VARIANTS) and set(PAPER) < set(VARIANTS)
    configs = {variant: read_config(variant_argument(CORPUS, variant, 1)) for variant in VARIANTS}
    for config in configs.values():
        validate(config)
        assert config.seed == 1 and config.data == configs["full"].data
    settings = {variant: run_settings(config) for variant, config in configs.items()}
    assert len({json.dumps(one, sort_keys=True) for one in settings.values()}) == len(VARIANTS)
    moved = read_config(f"{CORPUS}:data=elsewhere,variant=full,seed=1")
    assert run_settings(moved) == settings["full"]
    assert configs["window_in_frames"].model.audio_encoder.local_window == 12 * 4
    assert variant_argument("a.py:data=x", "full", 2) == "a.py:data=x,variant=full,seed=2"


def test_finished_runs_are_skipped_and_a_failed_one_stops_the_driver(tmp_path):
    finish(tmp_path, "full", 0)
    started = []

    def start(arguments):
        started.append(arguments[arguments.index("--only") + 1])
        assert arguments[arguments.index("--config") + 1].endswith(f"seed={started[-1].partition(':')[2]}")
        if started[-1] == "sigmoid:1":
            return 83
        variant, _, seed = started[-1].partition(":")
        finish(tmp_path, variant, int(seed))
        return 0

    with pytest.raises(AblationError, match="the run of sigmoid with seed 1 ended with exit code 83"):
        run_all(CORPUS, tmp_path, ["full", "sigmoid"], [0, 1], start=start)
    assert started == ["sigmoid:0", "full:1", "sigmoid:1"]
    assert len(read_outcomes(tmp_path, ["full", "sigmoid"], [0, 1])) == 3
    with pytest.raises(AblationError, match=r"full-seed0.json belongs to a run with train.steps=300, but now it is 7"):
        run_all(CORPUS, tmp_path, ["full"], [0], ["--config.train.steps=7"], start=start)
    content = result_file(tmp_path, "full", 0).read_text()
    for damaged in ("", "{", "[]", "7", '{"settings": 7}'):
        result_file(tmp_path, "full", 0).write_text(damaged)
        with pytest.raises(AblationError, match=r"full-seed0\.json is damaged .*; delete it"):
            run_all(CORPUS, tmp_path, ["full"], [0], start=start)
        with pytest.raises(AblationError, match=r"full-seed0\.json is damaged .*; delete it"):
            read_outcomes(tmp_path, ["full"], [0])
    older = json.loads(content)
    del older["settings"]["train.patience"]  # a setting that did not exist yet
    result_file(tmp_path, "full", 0).write_text(json.dumps(older))
    assert len(run_all(CORPUS, tmp_path, ["full"], [0], start=start)) == 1


def test_differences_are_paired_by_seed_and_lie_in_their_interval(tmp_path):
    for seed in (0, 1, 2):
        finish(tmp_path, "full", seed)
        finish(tmp_path, "no_captioning", seed, shift=-0.2)
        finish(tmp_path, "sigmoid", seed)
    full, worse, same = (read_outcomes(tmp_path, [name], [0, 1, 2]) for name in ("full", "no_captioning", "sigmoid"))
    hits = [np.mean(np.array(outcome.facts["t2a"]["rank"]) == 1) for outcome in full]
    own = estimate(full, "t2a", "r1")
    assert own.value == pytest.approx(100 * np.mean(hits)) and own.low < own.value < own.high
    change = estimate(worse, "t2a", "r1", full)
    expected = [np.mean(np.array(outcome.facts["t2a"]["rank"]) == 1) for outcome in worse]
    assert change.value == pytest.approx(100 * (np.mean(expected) - np.mean(hits)))
    assert change.low < change.value < change.high < 0
    assert change.high - change.low < own.high - own.low  # clips that are hard for both cancel
    nothing = estimate(same, "a2t", "map10", full)
    assert (nothing.value, nothing.low, nothing.high) == (0.0, 0.0, 0.0)


def test_the_table_marks_missing_runs_and_keeps_the_rest_of_the_page(tmp_path):
    for seed in (0, 1):
        finish(tmp_path, "full", seed)
    finish(tmp_path, "no_captioning", 0, shift=-0.2)
    page = tmp_path / "results.md"
    page.write_text("# Results\n\nBefore.\n")
    variants = ["full", "no_captioning", "sigmoid"]
    command = [
        "ablations",
        "--config",
        f"{CORPUS}:data=/my/data",
        "--run-dir",
        str(tmp_path),
        "--seeds",
        "0,1",
        "--table-only",
    ]
    assert main([*command, "--variants", ",".join(variants), "--output", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# Results\n\nBefore.\n") and text.count(BEGIN) == 1
    row = next(line for line in text.splitlines() if line.startswith("| without captioning | 1 |"))
    assert "**-" in row and row.endswith("| -1.8 |")
    assert "Of the 2 effects on R@1 that the paper reports for these variants, 2 have the same sign here" in text
    assert "Not run yet, and not part of any number above: seed 0: sigmoid; seed 1: no_captioning, sigmoid." in text
    assert "one seed, the interval covers the choice of clips only" in text and "corpus.py:data=DIR" in text
    put_into(page, "new\n")
    assert "new" in page.read_text() and "without captioning" not in page.read_text()


def test_a_table_without_runs_or_of_different_clips_is_an_error(tmp_path):
    with pytest.raises(AblationError, match="no run of 'full' is finished"):
        write_table(tmp_path, ["full", "sigmoid"], [0], "x", tmp_path / "page.md")
    outcomes = [Outcome.read(finish(tmp_path, name, 0)) for name in ("full", "sigmoid")]
    outcomes[1].facts["split_fingerprint"] = "other"
    with pytest.raises(AblationError, match="evaluated on different clips"):
        markdown(outcomes, ["full", "sigmoid"], [0], "x")


@pytest.mark.compile
@pytest.mark.process
def test_a_run_writes_the_outcome_of_every_query(train_data, tmp_path):
    config = tiny_config(str(train_data), distillation=0.0, captioning=0.0)
    config.data.evaluation.scenes = source(f"{train_data}/scenes", "test")
    config.train.steps = 4
    config.metrics.tensorboard = False
    output = tmp_path / "out.json"
    assert run(config, "contrastive_only", tmp_path / "run", output) == 0
    outcome = Outcome.read(output)
    assert outcome.facts["steps"] == 4 and outcome.facts["audio_seconds"] > 0

    model = read_model(tmp_path / "run")
    tasks = load_tasks(config.data.evaluation, load_tokenizer(model.tokenizer_path), config.data.max_caption_tokens)
    expected = evaluate(Embedder(config), model.params["model"], tasks, resamples=2)["retrieval"]["scenes"]
    for direction in ("t2a", "a2t"):
        result = estimate([outcome], direction, "r1").value, estimate([outcome], direction, "map10").value
        assert result == pytest.approx(
            (100 * expected[f"{direction}_r1"], 100 * expected[f"{direction}_map10"]), abs=1e-3
        )
    config.data.evaluation.again = source(f"{train_data}/scenes", "test")
    with pytest.raises(AblationError, match="has 2 sets; an ablation compares on one"):
        query_outcomes(config, tmp_path / "run")
