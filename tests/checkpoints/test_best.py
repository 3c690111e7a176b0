"""The best step is kept as a run directory, patience ends the run, and a resumed run may get different results."""

import json

import numpy as np
import pytest

from slap_jax.checkpoints.best import BestCheckpoint
from slap_jax.checkpoints.run import CheckpointError, restore_params
from slap_jax.config.defaults import source
from slap_jax.config.rules import ConfigError
from slap_jax.config.validate import validate
from tests.tiny import tiny_config


def config_with(metric: str, patience: int = 0):
    config = tiny_config()
    config.train.update(best_metric=metric, patience=patience, evaluate_every=1)
    return config


def feed(
    best: BestCheckpoint,
    values: dict[int, float],
    parameter: float | None = None,
    losses: dict[int, float] | None = None,
) -> list[bool]:
    """Returns whether the run stops after each evaluation; `parameter` is what is saved, by default the step."""
    stops = []
    for step, value in values.items():
        params = {"x": np.full(2, step if parameter is None else parameter)}
        metrics = {"m": value, "other": 0.0} | ({"loss": losses[step]} if losses else {})
        best.update(step, metrics, {"params": params}, {}, {"config": {}})
        stops.append(best.should_stop)
    best.close()
    return stops


@pytest.mark.parametrize("metric", ["m", "-m"])
def test_the_best_step_is_kept_and_patience_runs_out(tmp_path, metric):
    sign = -1 if metric[0] == "-" else 1
    values = {step: sign * value for step, value in zip(range(1, 7), (1.0, 3.0, 2.0, 3.0, 2.5, 9.0), strict=True)}
    best = BestCheckpoint(config_with(metric, patience=3), tmp_path, 0)
    assert feed(best, {step: values[step] for step in range(1, 6)}) == [False, False, False, False, True]
    params, meta = restore_params(tmp_path / "best")
    np.testing.assert_array_equal(params["x"], 4)  # the later of two equal ones, which is no improvement for patience
    assert meta["best"] == {"m": values[4]} and (tmp_path / "best" / "config.json").is_file()
    history = json.loads((tmp_path / "best.json").read_text())
    assert (history["step"], history["value"], history["stopped_early"]) == (4, values[4], True)
    assert "best step 4: m" in best.describe() and history["evaluations"] == [[s, values[s]] for s in range(1, 6)]

    assert BestCheckpoint(config_with(metric, patience=3), tmp_path, 5).should_stop
    resumed = BestCheckpoint(config_with(metric, patience=3), tmp_path, 4)
    assert not resumed.should_stop
    assert feed(resumed, {5: values[5], 6: values[6]})[0]
    assert BestCheckpoint(config_with("n", patience=3), tmp_path, 5).best is None  # the history is another metric's


@pytest.mark.parametrize("metric", ["m", "-m"])
def test_of_equal_values_the_lower_held_out_loss_wins_and_counts_for_patience(tmp_path, metric):
    """The accuracy of a small set soon stays where it is, while the probabilities still become better."""
    losses = {1: 1.1, 2: 0.9, 3: 0.95, 4: 0.7, 5: 0.7, 6: 0.8, 7: float("nan")}
    best = BestCheckpoint(config_with(metric, patience=3), tmp_path, 0, "loss")
    assert feed(best, dict.fromkeys(losses, 0.8333), losses=losses) == [False] * 6 + [True]
    params, meta = restore_params(tmp_path / "best")
    assert params["x"].tolist() == [5, 5] and meta["best"] == {"m": 0.8333}  # of equal losses, the later step
    history = json.loads((tmp_path / "best.json").read_text(), parse_constant=pytest.fail)
    assert history["step"] == 5 and history["held_out_loss"] == 0.7 and history["held_out_losses"][-1] == [7, None]
    assert "held-out loss 0.7000" in best.describe()

    resumed = BestCheckpoint(config_with(metric, patience=3), tmp_path, 6, "loss")
    assert not resumed.should_stop and resumed.best_loss == 0.7
    assert feed(resumed, {7: 0.8333, 8: 0.8333}, losses={7: 0.9, 8: 0.6}) == [True, False]
    assert resumed.best == (8, 0.8333)


def test_a_better_value_wins_whatever_its_loss(tmp_path):
    best = BestCheckpoint(config_with("m"), tmp_path, 0, "loss")
    feed(best, {1: 0.5, 2: 0.6, 3: 0.5}, losses={1: 0.1, 2: 3.0, 3: 0.01})
    assert best.best == (2, 0.6)


def test_a_value_that_is_not_finite_is_never_the_best(tmp_path):
    best = BestCheckpoint(config_with("-m", patience=1), tmp_path, 0)
    assert feed(best, {1: float("nan"), 2: 5.0, 3: float("inf")}) == [False, False, True]
    assert best.best == (2, 5.0)
    history = json.loads((tmp_path / "best.json").read_text(), parse_constant=pytest.fail)  # valid JSON: no NaN
    assert history["evaluations"] == [[1, None], [2, 5.0], [3, None]]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({20: 0.4}, (20, 0.9, 20)),  # the lost evaluation was better, and its checkpoint is still there
        ({20: 0.9}, (20, 0.9, 20)),  # the same again, as on the same hardware
        ({20: 0.95}, (20, 0.95, -1)),  # better now: the parameters on disk are the new ones
        ({15: 0.95, 20: 0.4}, (15, 0.95, -1)),  # a lower step number than the checkpoint on disk
        ({20: 0.4, 30: 0.92, 40: 0.5}, (30, 0.92, -1)),
    ],
)
def test_a_resumed_run_that_evaluates_differently_keeps_the_best(tmp_path, after, expected):
    """A run evaluates steps 10 and 20, is killed, and resumes from the checkpoint of step 10."""
    step, value, parameter = expected
    feed(BestCheckpoint(config_with("m"), tmp_path, 0), {10: 0.5, 20: 0.9})
    resumed = BestCheckpoint(config_with("m"), tmp_path, 10)
    feed(resumed, after, parameter=-1)
    params, meta = restore_params(tmp_path / "best")
    assert params["x"].tolist() == [parameter] * 2 and (meta["step"], meta["best"]) == (step, {"m": value})
    history = json.loads((tmp_path / "best.json").read_text())
    assert resumed.best == (history["step"], history["value"]) == (step, value)
    assert history["evaluations"] == [[10, 0.5], *map(list, after.items())]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xe9", b"{}", b'{"metric": "m", "evaluations": [1]}'])
def test_a_damaged_history_is_named(tmp_path, content):
    (tmp_path / "best.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"best\.json is damaged .*; restore it, or delete it"):
        BestCheckpoint(config_with("m"), tmp_path, 10)


def test_a_run_that_starts_again_forgets_the_best(tmp_path):
    feed(BestCheckpoint(config_with("m"), tmp_path, 0), {10: 0.5, 20: 0.9})
    again = BestCheckpoint(config_with("m"), tmp_path, 0)
    feed(again, {10: 0.4}, parameter=-1)
    params, meta = restore_params(tmp_path / "best")
    assert again.best == (10, 0.4) and params["x"].tolist() == [-1, -1] and meta["best"] == {"m": 0.4}


def test_an_unknown_metric_is_an_error_that_lists_the_metrics(tmp_path):
    with pytest.raises(ConfigError, match=r"best_metric is 'retrieval/x/r1', but the evaluation has only: m, other"):
        feed(BestCheckpoint(config_with("retrieval/x/r1"), tmp_path, 0), {1: 0.0})


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"patience": 2}, "patience is 2, but config.train.best_metric is empty"),
        ({"best_metric": "m"}, "best_metric is 'm', but nothing is evaluated during training"),
        ({"patience": -1}, "patience is -1; write an integer, 0 or more"),
    ],
)
def test_impossible_settings_are_errors_that_name_them(train, message):
    config = tiny_config()
    config.train.update(train)
    with pytest.raises(ConfigError, match=message):
        validate(config)
    config.data.evaluation.val = source("data", "val")
    config.train.update(best_metric="m", patience=2, evaluate_every=5)
    validate(config)
