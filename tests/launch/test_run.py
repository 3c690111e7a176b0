"""The script that all launchers end in: environment, flags, signals, exit codes."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from slap_jax.checkpoints.run import EXIT_PREEMPTED
from tests.launch.scripts import LAUNCH, ROOT, TRAIN, environment, launch, lines, program, variables_of

pytestmark = pytest.mark.process


@pytest.fixture
def python(tmp_path) -> Path:
    """In place of Python: writes down its environment and arguments, and ends with $CODE."""
    return program(
        tmp_path / "python",
        f'env >"{tmp_path}/environment"; printf "%s\\n" "$@" >"{tmp_path}/arguments"; exit "${{CODE:-0}}"',
    )


def run(python: Path, *options: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Returns how run.sh ended and the environment that it gave to Python."""
    ended = launch("run.sh", "--python", str(python), *options, "--", *TRAIN, **variables)
    written = lines(python.parent / "environment")
    return ended, variables_of(written)


def test_what_an_earlier_job_left_is_removed(python):
    stale = {
        "MEGASCALE_COORDINATOR_ADDRESS": "gone:8080",
        "JAX_COORDINATOR_ADDRESS": "gone:1234",
        "JAX_LOCAL_DEVICE_IDS": "7",
        "JAX_PLATFORMS": "rocm",
        "SLAP_COORDINATOR": "gone:1",
        "SLAP_DISTRIBUTED": "auto",
        "TPU_PROCESS_ADDRESSES": "gone:2",
        "TPU_WORKER_HOSTNAMES": "a,b",
        "TPU_VISIBLE_CHIPS": "3",
    }
    ended, seen = run(python, "--platform", "cpu", **stale)
    assert ended.returncode == 0
    assert seen.pop("JAX_PLATFORMS") == "cpu"
    assert not stale.keys() & seen.keys()
    for name in stale:
        assert f"removed {name}=" in ended.stderr


def test_a_pod_of_gke_keeps_what_its_cluster_has_set(python):
    own = {"MEGASCALE_COORDINATOR_ADDRESS": "first:8080", "TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}
    _, seen = run(python, "--platform", "tpu", "--gke", **own, JAX_COORDINATOR_ADDRESS="gone:1")
    assert own.items() <= seen.items()
    assert seen["SLAP_DISTRIBUTED"] == "auto"
    assert "JAX_COORDINATOR_ADDRESS" not in seen


def test_processes_know_their_coordinator(python):
    options = ("--coordinator", "host:4321", "--processes", "4", "--process-id", "3", "--local-devices", "0,1")
    ended, seen = run(python, "--platform", "gpu", *options)
    expected = {"SLAP_COORDINATOR": "host:4321", "SLAP_NUM_PROCESSES": "4", "SLAP_PROCESS_ID": "3"}
    assert expected.items() <= seen.items()
    assert seen["JAX_LOCAL_DEVICE_IDS"] == "0,1"
    assert "process 3, waiting for 4 processes at host:4321" in ended.stderr


def test_a_tpu_vm_asks_its_metadata_server(python):
    ended, seen = run(python, "--platform", "tpu", "--tpu-vm", "--slices", "2")
    assert seen["SLAP_DISTRIBUTED"] == "auto"
    assert "--megascale_grpc_premap_memory_bytes=" in seen["LIBTPU_INIT_ARGS"]
    assert seen["JAX_PLATFORMS"] == "tpu,cpu"
    assert "waiting for the other workers" in ended.stderr


def test_flags_of_the_caller_come_last_and_win(python):
    _, seen = run(python, "--platform", "gpu", XLA_FLAGS="--mine=1", XLA_PYTHON_CLIENT_MEM_FRACTION="0.5")
    flags = seen["XLA_FLAGS"].split()
    assert flags[-1] == "--mine=1"
    assert "--xla_gpu_enable_latency_hiding_scheduler=true" in flags[:-1]
    assert seen["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"


def test_training_and_preflight_get_the_arguments_as_they_are(python):
    run(python)
    assert lines(python.parent / "arguments") == ["-u", "-m", "slap_jax.cli", *TRAIN]
    launch("run.sh", "--python", str(python), "--", "preflight", "--config", "a b.py")
    assert lines(python.parent / "arguments") == ["-u", str(LAUNCH / "preflight.py"), "--config", "a b.py"]


def test_nothing_is_trained_when_the_preflight_finds_a_problem(tmp_path):
    python = program(tmp_path / "python", f'echo "$2" >>"{tmp_path}/started"; [[ $2 != *preflight.py ]]')
    ended = launch("run.sh", "--preflight", "--python", str(python), "--", *TRAIN)
    assert ended.returncode == 1
    assert lines(tmp_path / "started") == [str(LAUNCH / "preflight.py")]


@pytest.mark.parametrize("code", [0, 1, 2, EXIT_PREEMPTED])
def test_the_exit_code_is_handed_on(python, code):
    ended, _ = run(python, CODE=str(code))
    assert ended.returncode == code
    assert ("ended with exit code" in ended.stderr) == (code in (1, 2))


@pytest.mark.parametrize(
    ("reaction", "expected"),
    [
        (f"exit {EXIT_PREEMPTED}", EXIT_PREEMPTED),
        ("exit 3", 3),
        ("trap - TERM; kill -TERM $$", EXIT_PREEMPTED),  # before there is anything to save
    ],
    ids=["saved", "failed while saving", "had not begun"],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=["term", "usr1"])
def test_a_request_to_stop_reaches_training(tmp_path, reaction, expected, number):
    python = program(
        tmp_path / "python",
        f'trap "{reaction}" TERM; touch "{tmp_path}/started"; while true; do sleep 0.05; done'.replace("$$", "\\$\\$"),
    )
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "run.sh"), "--python", str(python), "--", *TRAIN], cwd=ROOT, env=environment()
    )
    try:
        while not (tmp_path / "started").exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, number)
        assert process.wait(timeout=60) == expected
    finally:
        process.kill()
