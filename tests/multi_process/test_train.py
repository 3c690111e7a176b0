"""A run of two real processes equals a run of one: the same batches and losses, also after changing over."""

import functools
import itertools
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint
import pytest

from slap_jax.checkpoints.run import restore_params
from slap_jax.parallel.process_group import EXIT_LOST
from slap_jax.training.metrics import read_metrics
from tests.multi_process.processes import outputs_of, started

COUNTS = ("clips", "audio_tokens", "audio_tokens_squared", "text_tokens", "text_tokens_squared", "cross_tokens")
LOSSES = ("loss/total", "loss/contrastive", "loss/distillation", "loss/captioning")
STEPS = 20
# The learning rate of the default configuration; with that of the other tiny runs, a hundred times as much, training
# itself makes a difference of one rounding grow from step to step.
# Processes that share a run do not share compiled programs, so each compiles one that is as small as the losses allow.
SETTINGS = {
    "optimizer.learning_rate": 1e-4,
    "distributed.heartbeat_timeout": 10,
    "model.audio_encoder.layers": 2,
    "model.audio_encoder.locals_per_global": 1,
}

# Where it is starting and stopping that is tested: a third of the program.
CONTRASTIVE = SETTINGS | {"objectives.distillation.weight": 0.0, "objectives.captioning.weight": 0.0}


def command(data: Path, run_dir: Path, settings: dict[str, Any]) -> list[str]:
    return ["-m", "tests.train_worker", str(data), str(run_dir), str(STEPS), json.dumps(settings)]


def run(data: Path, run_dir: Path, processes: int, devices: int, settings: dict[str, Any] = SETTINGS) -> list[str]:
    """Trains to the end on `devices` in all, and returns what each process wrote."""
    with started([command(data, run_dir, settings)] * processes, devices // processes) as workers:
        outputs = outputs_of(workers)
    assert [worker.returncode for worker in workers] == [0] * processes
    return outputs


@pytest.fixture(scope="module")
def one_of_eight(train_data, tmp_path_factory) -> Path:
    """One process with eight devices."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    run(train_data, run_dir, processes=1, devices=8)
    return run_dir


@pytest.fixture(scope="module")
def one_of_two(train_data, tmp_path_factory) -> Path:
    """One process with two devices."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    run(train_data, run_dir, processes=1, devices=2)
    return run_dir


@pytest.fixture(scope="module")
def contrastive_of_two(train_data, tmp_path_factory) -> Path:
    """One process with two devices, of one objective."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    run(train_data, run_dir, processes=1, devices=2, settings=CONTRASTIVE)
    return run_dir


def assert_same_run(run_dir: Path, expected_dir: Path, tolerance: float) -> None:
    ours, theirs = (read_metrics(path / "metrics.jsonl") for path in (run_dir, expected_dir))
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == list(range(1, STEPS + 1))
    for line, expected in zip(ours, theirs, strict=True):
        assert [line[name] for name in COUNTS] == [expected[name] for name in COUNTS]  # the same global batch
        for name in LOSSES if "loss/captioning" in expected else LOSSES[:2]:
            np.testing.assert_allclose(line[name], expected[name], rtol=tolerance, err_msg=f"{name} of {line['step']}")
        np.testing.assert_allclose(line["gradient_norm"], expected["gradient_norm"], rtol=10 * tolerance)


def test_two_processes_train_as_one_does(train_data, one_of_eight, tmp_path):
    run_dir = tmp_path / "run"
    run(train_data, run_dir, processes=2, devices=8)
    # Eight summands are added in another order when they come from two processes.
    assert_same_run(run_dir, one_of_eight, tolerance=1e-6)
    (params, meta), (expected, _) = restore_params(run_dir), restore_params(one_of_eight)
    assert meta["step"] == STEPS
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), params, expected)


def test_a_run_of_one_process_goes_on_with_two_to_the_same_bits(train_data, one_of_two, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(one_of_two, run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "20")
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir() if path.name.isdigit()) == ["10", "15"]
    run(train_data, run_dir, processes=2, devices=2)
    assert_same_run(run_dir, one_of_two, tolerance=0.0)  # two summands have but one order
    assert_same_bits(run_dir, one_of_two)


def assert_same_bits(run_dir: Path, expected_dir: Path) -> None:
    jax.tree.map(np.testing.assert_array_equal, restore_params(run_dir)[0], restore_params(expected_dir)[0])


def kill(train_data: Path, run_dir: Path, victim: int, after: int) -> None:
    """Starts two processes with a device each, kills one once the step is logged, and sees the other end.

    A checkpoint is there by then: it is written beside the steps, and takes as long as several of them.
    """
    with started([command(train_data, run_dir, CONTRASTIVE)] * 2) as workers:
        wait_for_step(run_dir, after, workers)
        workers[victim].send_signal(signal.SIGKILL)
        outputs = outputs_of(workers)
    assert workers[victim].returncode == -signal.SIGKILL
    # JAX aborts a process that waits for a lost one, unless the exchange between them failed before.
    assert workers[1 - victim].returncode in (EXIT_LOST, -signal.SIGABRT)
    assert f"slap: process {1 - victim} of 2" in outputs[1 - victim]
    assert "another process of the run was lost" in outputs[1 - victim]
    assert f"resumes from the newest checkpoint in {run_dir / 'checkpoints'}" in outputs[1 - victim]
    assert "was killed before the run was over" in outputs[victim]


def test_a_killed_process_ends_the_other_and_the_run_goes_on_to_the_same_bits(train_data, contrastive_of_two, tmp_path):
    """Each of the two in its turn; what comes out is what one process computes with both devices."""
    run_dir = tmp_path / "run"
    kill(train_data, run_dir, victim=0, after=6)
    logged = max(line["step"] for line in read_metrics(run_dir / "metrics.jsonl"))
    kill(train_data, run_dir, victim=1, after=max(logged + 1, 11))  # by its own steps, which begin anew at 5 or 10
    outputs = run(train_data, run_dir, processes=2, devices=2, settings=CONTRASTIVE)
    assert_same_run(run_dir, contrastive_of_two, tolerance=0.0)
    assert_same_bits(run_dir, contrastive_of_two)
    assert ["since the run first started; else: " in output for output in outputs] == [True, False]
    sessions = json.loads((run_dir / "goodput.json").read_text())["sessions"]
    assert len(sessions) == 3 and sessions[2]["last_step"] == STEPS
    for before, after in itertools.pairwise(sessions):
        assert before["last_step"] >= after["restored_step"] > 0


def wait_for_step(run_dir: Path, step: int, workers: list[subprocess.Popen[str]]) -> None:
    metrics, deadline = run_dir / "metrics.jsonl", time.monotonic() + 600  # a busy machine compiles slowly

    def is_there() -> bool:
        logged = metrics.exists() and any(line["step"] >= step for line in read_metrics(metrics))
        return logged and bool(orbax.checkpoint.utils.checkpoint_steps(run_dir / "checkpoints"))

    while not is_there():
        alive = all(worker.poll() is None for worker in workers)
        if not alive or time.monotonic() > deadline:
            outputs_of(workers, timeout=20)
            pytest.fail("the run ended before it could be stopped")
        time.sleep(0.02)
