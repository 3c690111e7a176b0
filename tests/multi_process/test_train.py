"""A run of two real processes equals a run of one, also if it resumes the run of one and is killed in between."""

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

pytestmark = pytest.mark.process

COUNTS = ("clips", "audio_tokens", "audio_tokens_squared", "text_tokens", "text_tokens_squared", "cross_tokens")
LOSSES = ("loss/total", "loss/contrastive", "loss/distillation", "loss/captioning")
STEPS = 20
# The default learning rate: at that of the other tiny runs, a hundred times as high, one rounding error grows from step
# to step. The program is small, because the processes of a run cannot use the compilation cache.
SETTINGS = {
    "optimizer.learning_rate": 1e-4,
    "distributed.heartbeat_timeout": 10,
    "model.audio_encoder.layers": 2,
    "model.audio_encoder.locals_per_global": 1,
}

# Tests of starting and stopping need one objective, a third of the program, and all its checkpoints.
CONTRASTIVE = SETTINGS | {
    "objectives.distillation.weight": 0.0,
    "objectives.captioning.weight": 0.0,
    "checkpoint.keep": 4,
}


def command(data: Path, run_dir: Path, settings: dict[str, Any]) -> list[str]:
    return ["-m", "tests.train_worker", str(data), str(run_dir), str(STEPS), json.dumps(settings)]


def run(data: Path, run_dir: Path, processes: int, devices: int, settings: dict[str, Any] = SETTINGS) -> list[str]:
    """Trains to the end on `devices` in total, and returns the output of each process."""
    with started([command(data, run_dir, settings)] * processes, devices // processes) as workers:
        outputs = outputs_of(workers)
    assert [worker.returncode for worker in workers] == [0] * processes
    return outputs


@pytest.fixture(scope="module")
def one_of_eight(train_data, tmp_path_factory) -> Path:
    """One process with eight devices, all objectives."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    run(train_data, run_dir, processes=1, devices=8)
    return run_dir


@pytest.fixture(scope="module")
def one_of_two(train_data, tmp_path_factory) -> Path:
    """One process with two devices, one objective."""
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
    # Sums over eight devices have another order of summation with two processes.
    assert_same_run(run_dir, one_of_eight, tolerance=1e-6)
    (params, meta), (expected, _) = restore_params(run_dir), restore_params(one_of_eight)
    assert meta["step"] == STEPS
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), params, expected)


def assert_same_bits(run_dir: Path, expected_dir: Path) -> None:
    jax.tree.map(np.testing.assert_array_equal, restore_params(run_dir)[0], restore_params(expected_dir)[0])


def kill(train_data: Path, run_dir: Path, victim: int, logged: int, saved: int) -> None:
    """Starts two processes with a device each, kills one once a step is logged and a checkpoint saved; both end."""
    with started([command(train_data, run_dir, CONTRASTIVE)] * 2) as workers:
        wait_for(run_dir, logged, saved, workers)
        workers[victim].send_signal(signal.SIGKILL)
        outputs = outputs_of(workers)
    assert workers[victim].returncode == -signal.SIGKILL
    # JAX aborts a process that waits for a lost one, unless a collective between them fails first.
    assert workers[1 - victim].returncode in (EXIT_LOST, -signal.SIGABRT)
    assert f"slap: process {1 - victim} of 2" in outputs[1 - victim]
    assert "another process of the run was lost" in outputs[1 - victim]
    assert f"resumes from the newest checkpoint in {run_dir / 'checkpoints'}" in outputs[1 - victim]
    assert "was killed before the run ended" in outputs[victim]


def test_two_processes_resume_a_run_of_one_and_each_is_killed_once(train_data, one_of_two, tmp_path):
    """A run of one process resumes with two; each of them is killed in turn; the result is that of one process."""
    run_dir = tmp_path / "run"
    shutil.copytree(one_of_two, run_dir)
    for step in ("10", "15", "20"):
        shutil.rmtree(run_dir / "checkpoints" / step)
    assert [path.name for path in (run_dir / "checkpoints").iterdir() if path.name.isdigit()] == ["5"]
    kill(train_data, run_dir, victim=0, logged=6, saved=5)
    kill(train_data, run_dir, victim=1, logged=11, saved=10)
    outputs = run(train_data, run_dir, processes=2, devices=2, settings=CONTRASTIVE)
    assert_same_run(run_dir, one_of_two, tolerance=0.0)  # a sum of two terms has only one order
    assert_same_bits(run_dir, one_of_two)
    assert ["since the run first started; other: " in output for output in outputs] == [True, False]
    sessions = json.loads((run_dir / "goodput.json").read_text())["sessions"]
    assert len(sessions) == 4 and sessions[3]["last_step"] == STEPS
    for before, after in itertools.pairwise(sessions):
        assert before["last_step"] >= after["restored_step"] > 0


def wait_for(run_dir: Path, logged: int, saved: int, workers: list[subprocess.Popen[str]]) -> None:
    """Waits until this session has logged the step and the run has the checkpoint."""
    metrics, deadline = run_dir / "metrics.jsonl", time.monotonic() + 600  # a busy machine compiles slowly
    started_at = time.time()

    def is_there() -> bool:
        lines = read_metrics(metrics) if metrics.exists() else []
        reached = any(line["step"] >= logged and line["time"] > started_at for line in lines)
        return reached and saved in orbax.checkpoint.utils.checkpoint_steps(run_dir / "checkpoints")

    while not is_there():
        alive = all(worker.poll() is None for worker in workers)
        if not alive or time.monotonic() > deadline:
            outputs_of(workers, timeout=20)
            pytest.fail("the run ended before it could be stopped")
        time.sleep(0.02)
