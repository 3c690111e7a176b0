"""The batch script of SLURM, with stand-ins for srun, scontrol, squeue and scancel."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from slap_jax.checkpoints.run import EXIT_PREEMPTED
from tests.launch.scripts import LAUNCH, ROOT, TRAIN, environment, lines, program, variables_of

pytestmark = pytest.mark.process


@pytest.fixture
def cluster(tmp_path) -> dict[str, str]:
    """The environment of a job on two nodes, whose commands are written to `called`."""
    called = tmp_path / "called"
    programs = {
        "srun": 'eval "$SRUN"',
        "scontrol": '[[ $1 == show ]] && printf "node7\\nnode8\\n"',
        "squeue": 'echo "$STATE"',
        # SLURM signals the processes of the step: here the stand-in for srun.
        "scancel": f'kill -TERM "$(<"{tmp_path}/srun_pid")"',
    }
    for name, body in programs.items():
        program(tmp_path / "bin" / name, f'echo "{name} $*" >>"{called}"\n{body}\ntrue')
    job = {"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2", "SLURM_SUBMIT_DIR": str(ROOT)}
    return environment(**job, STATE="RUNNING", PATH=f"{tmp_path}/bin:{os.environ['PATH']}")


def batch(cluster: dict[str, str], tmp_path: Path, **variables: str) -> tuple[int, list[str]]:
    """Runs the job to its end; returns its exit code and the commands that it called."""
    # SLURM runs a copy of the script from another directory.
    copy = tmp_path / "slurm_script"
    copy.write_bytes((LAUNCH / "gpu_slurm.sbatch").read_bytes())
    ended = subprocess.run(["bash", str(copy), *TRAIN], env=cluster | variables, timeout=60, check=False)
    return ended.returncode, lines(tmp_path / "called")


def test_all_processes_meet_at_the_first_node(cluster, tmp_path):
    code, called = batch(cluster, tmp_path, SRUN="exit 0")
    assert code == 0
    assert f"--task node7:{61440 + 41} {' '.join(TRAIN)}" in next(line for line in called if line.startswith("srun"))
    assert not any("requeue" in line for line in called)


def test_a_saved_run_is_queued_again(cluster, tmp_path):
    _, called = batch(cluster, tmp_path, SRUN=f"exit {EXIT_PREEMPTED}", SLURM_RESTART_COUNT="2")
    assert called[-1] == "scontrol requeue 41"


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({"SRUN": "exit 1"}, 1),
        ({"SRUN": "exit 84"}, 84),  # SLURM itself requeues a job that has lost a node
        ({"SRUN": f"exit {EXIT_PREEMPTED}", "STATE": "CANCELLED"}, EXIT_PREEMPTED),
        ({"SRUN": f"exit {EXIT_PREEMPTED}", "SLURM_RESTART_COUNT": "5", "MAX_RESTARTS": "5"}, EXIT_PREEMPTED),
    ],
    ids=["error", "lost", "cancelled", "too often"],
)
def test_any_other_run_is_not(cluster, tmp_path, variables, code):
    ended, called = batch(cluster, tmp_path, **variables)
    assert ended == code
    assert not any("requeue" in line for line in called)


def test_before_the_time_limit_all_processes_get_the_signal_to_save(cluster, tmp_path):
    srun = f'trap "exit {EXIT_PREEMPTED}" TERM; echo $$ >"{tmp_path}/srun_pid"; while true; do sleep 0.05; done'
    job = subprocess.Popen(["bash", str(LAUNCH / "gpu_slurm.sbatch"), *TRAIN], env=cluster | {"SRUN": srun}, cwd=ROOT)
    try:
        while not lines(tmp_path / "srun_pid"):
            assert job.poll() is None
            time.sleep(0.01)
        os.kill(job.pid, signal.SIGUSR1)
        assert job.wait(timeout=60) == 0
    finally:
        job.kill()
    called = lines(tmp_path / "called")
    assert "scancel --signal=TERM 41" in called
    assert called[-1] == "scontrol requeue 41"


@pytest.mark.parametrize(
    ("tasks", "devices"), [("1(x2)", "0,1,2,3,4,5,6,7"), ("8(x2)", "5")], ids=["of a node", "of a GPU"]
)
def test_a_process_takes_the_gpus_that_are_its_own(tmp_path, tasks, devices):
    python = program(tmp_path / "python", f'env >"{tmp_path}/environment"')
    count = "2" if devices != "5" else "16"
    task = {
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_NTASKS": count,
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "5",
        "PYTHON": str(python),
    }
    command = ["bash", str(LAUNCH / "gpu_slurm.sbatch"), "--task", "node7:61481", *TRAIN]
    assert subprocess.run(command, env=environment(**task), timeout=60, check=False).returncode == 0
    seen = variables_of(lines(tmp_path / "environment"))
    assert seen["JAX_LOCAL_DEVICE_IDS"] == devices
    assert (seen["SLAP_COORDINATOR"], seen["SLAP_NUM_PROCESSES"], seen["SLAP_PROCESS_ID"]) == (
        "node7:61481",
        count,
        "1",
    )
