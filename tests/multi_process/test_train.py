"""A run of two real processes equals a run of one: the same batches and losses, also after changing over."""

import functools
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from slap_jax.checkpoints import restore_params
from slap_jax.metrics import read_metrics
from tests.test_train import ROOT

COUNTS = ("clips", "audio_tokens", "audio_tokens_squared", "text_tokens", "text_tokens_squared", "cross_tokens")


def run(data_dir: Path, run_dir: Path, steps: int, processes: int) -> None:
    """Trains to `steps` on 8 devices in all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environment |= {"SLAP_TEST_DEVICES": str(8 // processes)}
    if processes > 1:
        environment |= {"SLAP_COORDINATOR": f"127.0.0.1:{port}", "SLAP_NUM_PROCESSES": str(processes)}
    command = [sys.executable, "-m", "tests.train_worker", str(data_dir), str(run_dir), str(steps)]
    workers = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "SLAP_PROCESS_ID": str(index)} if processes > 1 else environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]
    try:
        outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for index, output in enumerate(outputs):
        print(f"process {index} of {processes}:\n{output[-3000:]}")  # shown when the test fails
    assert [worker.returncode for worker in workers] == [0] * processes


@pytest.fixture(scope="module")
def one_process(train_data, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("one") / "run"
    run(train_data, run_dir, 6, processes=1)
    return run_dir


def assert_same_run(run_dir: Path, expected_dir: Path) -> None:
    ours, theirs = (read_metrics(path / "metrics.jsonl") for path in (run_dir, expected_dir))
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == list(range(1, 7))
    for line, expected in zip(ours, theirs, strict=True):
        assert [line[name] for name in COUNTS] == [expected[name] for name in COUNTS]  # the same global batch
        np.testing.assert_allclose(line["loss/total"], expected["loss/total"], rtol=1e-3)
    # Sums between processes add in another order than within one, so the first step agrees best.
    np.testing.assert_allclose(ours[0]["loss/total"], theirs[0]["loss/total"], rtol=1e-5)
    np.testing.assert_allclose(ours[0]["gradient_norm"], theirs[0]["gradient_norm"], rtol=1e-4)


def test_two_processes_train_as_one_does(train_data, one_process, tmp_path):
    run_dir = tmp_path / "run"
    run(train_data, run_dir, 6, processes=2)
    assert_same_run(run_dir, one_process)
    (params, meta), (expected, _) = restore_params(run_dir), restore_params(one_process)
    assert meta["step"] == 6
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-3), params, expected)


def test_a_run_of_one_process_goes_on_with_two(train_data, one_process, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(one_process, run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "6")
    assert [path.name for path in (run_dir / "checkpoints").iterdir() if path.name.isdigit()] == ["5"]
    run(train_data, run_dir, 6, processes=2)
    assert_same_run(run_dir, one_process)
