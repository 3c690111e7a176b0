"""Real training under the launch script: two processes that are stopped and resumed."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from slap_jax.checkpoints.run import EXIT_PREEMPTED, Checkpoints
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.training.metrics import read_metrics
from tests.conftest import COMPILE_FLAGS
from tests.launch.scripts import LAUNCH, ROOT
from tests.launch.tiny import get_config

pytestmark = pytest.mark.process

STEPS = 40


@pytest.fixture(scope="module")
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """All runs; none outlives the tests."""
    runs: list[subprocess.Popen[str]] = []
    yield runs
    for run in runs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def start(started: list, train_data: Path, run_dir: Path, processes: int) -> subprocess.Popen[str]:
    """Starts training on 4 devices in total; its output is in `process_0.log`."""
    script = [str(LAUNCH / "gpu_single.sh"), "--platform", "cpu", "--python", sys.executable]
    options = ["--processes", str(processes), "--devices", str(4 // processes), "--log-dir", str(run_dir.parent)]
    config = f"tests/launch/tiny.py:data={train_data},steps={STEPS}"
    # Variables of an earlier job, which would break this one: the script must remove them.
    stale = {"SLAP_COORDINATOR": "localhost:1", "MEGASCALE_COORDINATOR_ADDRESS": "localhost:2"}
    # Without the cache, which only process 0 fills: the processes then come to their first exchange together, for which
    # Gloo waits no longer than 30 s.
    flags = {"XLA_FLAGS": COMPILE_FLAGS, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    run = subprocess.Popen(
        ["bash", *script, *options, "--", "train", "--config", config, "--run-dir", str(run_dir)],
        cwd=ROOT,
        env=os.environ | stale | flags,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    started.append(run)
    return run


def wait_for(run: subprocess.Popen[str], log: Path, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 900
    while not condition():
        assert run.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.05)


def wait_for_step(run: subprocess.Popen[str], run_dir: Path, step: int) -> None:
    metrics = run_dir / "metrics.jsonl"

    def reached() -> bool:
        return metrics.exists() and any(line["step"] >= step for line in read_metrics(metrics))

    wait_for(run, run_dir.parent / "process_0.log", reached)


def starts(log: Path) -> list[int]:
    """The steps at which the run has started so far."""
    return [int(step) for step in re.findall(rf"starting at step (\d+) of {STEPS}", log.read_text())]


def ended(run: subprocess.Popen[str]) -> int:
    return run.wait(timeout=900)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def trainers(pid: int) -> list[int]:
    """The Python processes of the run, below run.sh."""
    below = [grandchild for child in children(pid) for grandchild in children(child)]
    return [p for p in below if b"slap_jax.cli" in Path(f"/proc/{p}/cmdline").read_bytes()]


def assert_every_step_saw_its_batch(run_dir: Path, train_data: Path) -> None:
    """The metrics of each step match the data order, independently of the number of processes."""
    lines = read_metrics(run_dir / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    config = get_config(f"data={train_data},steps={STEPS}")
    with contextlib.closing(TrainBatches(config, load_tokenizer(config.data.tokenizer), 0, 1)) as batches:
        for line in lines:
            batch = next(batches)
            expected = [
                np.sum(batch.clip_valid),
                4 * np.sum(batch.audio_segment_ids > 0),
                np.sum(batch.text_segment_ids > 0),
            ]
            assert [line[name] for name in ("clips", "audio_tokens", "text_tokens")] == expected
    assert lines[-1]["loss/total"] < lines[0]["loss/total"]


def test_two_processes_are_stopped_twice_and_train_to_the_end(started, train_data, tmp_path):
    run_dir, log = tmp_path / "run", tmp_path / "process_0.log"
    run = start(started, train_data, run_dir, processes=2)
    wait_for_step(run, run_dir, 2)

    # SIGTERM to one process: both save and stop, and the script restarts both. (On a very busy machine they may have
    # lost each other before, and restarted.)
    before = starts(log)
    assert set(before) == {0}
    os.kill(trainers(run.pid)[1], signal.SIGTERM)
    wait_for(run, log, lambda: len(starts(log)) > len(before))
    second = starts(log)[len(before)]
    assert 2 <= second < STEPS
    wait_for_step(run, run_dir, second + 1)

    # SIGTERM to the script: it saves and does not restart the run.
    os.kill(run.pid, signal.SIGTERM)
    assert ended(run) == EXIT_PREEMPTED, log.read_text()[-4000:]
    with Checkpoints(run_dir / "checkpoints", handle_signals=False) as checkpoints:
        saved = checkpoints.latest()
    assert saved is not None and second < saved < STEPS

    # The same command resumes, also with another number of processes.
    assert ended(start(started, train_data, run_dir, processes=1)) == 0, log.read_text()[-4000:]
    assert starts(log)[-1] == saved
    assert_every_step_saw_its_batch(run_dir, train_data)

    said = log.read_text()
    assert "removed MEGASCALE_COORDINATOR_ADDRESS=localhost:2" in said
    assert re.search(r"process 0, waiting for 2 processes at localhost:\d+", said)
    assert "devices: 4 x cpu (cpu) on 2 hosts" in said
