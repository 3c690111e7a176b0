"""One host: how often a run is started again, and what becomes of the other processes when one ends."""

import subprocess
from pathlib import Path

import pytest

from slap_jax.checkpoints.run import EXIT_PREEMPTED
from slap_jax.parallel.process_group import EXIT_LOST
from tests.launch.scripts import LAUNCH, TRAIN, launch, lines, program

pytestmark = pytest.mark.process


def start(tmp_path: Path, body: str, *options: str) -> tuple[int, str, list[str]]:
    """Runs `body` in place of training; returns the exit code, what was said, and the processes started."""
    python = program(tmp_path / "python", f'echo "${{SLAP_PROCESS_ID:-0}}" >>"{tmp_path}/started"\n{body}')
    arguments = ("--platform", "cpu", "--python", str(python), "--log-dir", str(tmp_path / "logs"), *options)
    ended = launch("gpu_single.sh", *arguments, "--", *TRAIN)
    return ended.returncode, ended.stdout + ended.stderr, sorted(lines(tmp_path / "started"))


def test_a_run_that_was_asked_to_stop_resumes(tmp_path):
    body = f'[[ $(wc -l <"{tmp_path}/started") -ge 3 ]] || exit {EXIT_PREEMPTED}'
    code, said, started = start(tmp_path, body)
    assert (code, started) == (0, ["0"] * 3)
    assert "restart 2 of 10" in said


def test_not_more_often_than_allowed(tmp_path):
    code, said, started = start(tmp_path, f"exit {EXIT_PREEMPTED}", "--restarts", "2")
    assert (code, started) == (EXIT_PREEMPTED, ["0"] * 3)
    assert "the last of --restarts 2" in said


def test_an_error_is_not_tried_again(tmp_path):
    code, said, started = start(tmp_path, "echo the reason; exit 1")
    assert (code, started) == (1, ["0"])
    assert "the reason" in said
    assert "the reason" in (tmp_path / "logs" / "process_0.log").read_text()


def test_an_error_of_one_process_ends_the_others(tmp_path):
    body = 'if [[ $SLAP_PROCESS_ID == 1 ]]; then exit 3; fi; trap "exit 143" TERM; while true; do sleep 0.05; done'
    code, said, started = start(tmp_path, body, "--processes", "3")
    assert (code, started) == (3, ["0", "1", "2"])
    assert "process 1 ended with exit code 3" in said


def test_all_processes_are_started_again_together(tmp_path):
    body = f'[[ $(wc -l <"{tmp_path}/started") -gt 2 ]] || {{ sleep 0.5; exit {EXIT_PREEMPTED}; }}'
    code, _, started = start(tmp_path, body, "--processes", "2")
    assert (code, started) == (0, ["0", "0", "1", "1"])


def test_processes_that_lost_each_other_go_on(tmp_path):
    body = f'[[ $(wc -l <"{tmp_path}/started") -gt 2 ]] || {{ sleep 0.5; exit $((84 + SLAP_PROCESS_ID * 50)); }}'
    code, said, started = start(tmp_path, body, "--processes", "2")
    assert (code, started) == (0, ["0", "0", "1", "1"])
    assert "lost contact with the others" in said


def test_an_abort_of_the_only_process_is_an_error(tmp_path):
    code, _, started = start(tmp_path, "exit 134")
    assert (code, started) == (134, ["0"])


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0], 0),
        ([0, EXIT_PREEMPTED], EXIT_PREEMPTED),
        ([EXIT_LOST, 134, EXIT_PREEMPTED], EXIT_LOST),
        ([EXIT_LOST, 1, 134], 1),
        ([137, EXIT_PREEMPTED], 137),
        ([], 1),
    ],
)
def test_the_exit_code_of_a_run_is_that_of_its_cause(codes, expected):
    script = f'PROGRAM=test; source "{LAUNCH}/common.sh"; combined_exit_code'
    told = "".join(f"{code}\n" for code in codes)
    shown = subprocess.run(["bash", "-c", script], input=told, capture_output=True, text=True, check=True)
    assert int(shown.stdout) == expected


def test_gpus_that_cannot_be_shared_evenly_are_refused(tmp_path):
    smi = program(tmp_path / "bin" / "nvidia-smi", 'printf "GPU %s: H100\\n" 0 1 2')
    path = f"{smi.parent}:/usr/bin:/bin"
    refused = launch("gpu_single.sh", "--processes", "2", "--", *TRAIN, PATH=path)
    assert refused.returncode == 2
    assert "--processes is 2, but nvidia-smi lists 3 GPUs" in refused.stderr
    shown = launch("gpu_single.sh", "--processes", "3", "--dry-run", "--", *TRAIN, PATH=path).stdout
    assert [line.split("--local-devices ")[1].split()[0] for line in shown.splitlines()] == ["0", "1", "2"]
