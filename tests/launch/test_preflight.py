"""The preflight check: each finding, and the whole script with one process and with two."""

import json
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from launch.preflight_checks import storage
from launch.preflight_checks.finding import OK, PROBLEM, SKIPPED, Finding, attempt, merge, table
from launch.preflight_checks.machines import check_all_reduce, check_devices
from launch.preflight_checks.pace import check_aot, check_read_speed, judge_report
from launch.preflight_checks.versions import check_versions, read_requirements
from slap_jax.parallel.sharding import create_mesh
from slap_jax.training.optimizer import create_optimizer
from slap_jax.training.state import create_state
from tests.launch.scripts import LAUNCH, ROOT, environment, launch
from tests.tiny import tiny_config

MESH = ConfigDict({"data": 4, "fsdp": 2, "tensor": 1})


# Versions ------------------------------------------------------------------------------------------------------------


def test_the_installed_packages_are_those_of_the_project():
    requirements = read_requirements(ROOT / "requirements.txt")
    assert len(requirements) > 20 and all(not requirement.specifier.contains("0") for requirement in requirements)
    (finding,) = check_versions(ROOT / "requirements.txt")
    assert finding.status == OK and f"jax {jax.__version__}" in finding.text


def test_a_missing_and_a_wrong_package_are_both_reported(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("# core\nnumpy>=99,<100\nno-such-package>=1\nabsl-py>=1,<9\n")
    first, second = check_versions(file)
    assert first.status == second.status == PROBLEM
    assert f"numpy is {np.__version__}, but <100,>=99 is tested" in first.text
    assert "no-such-package is not installed" in second.text
    assert "pip install" in first.remedy


# Findings of several hosts -------------------------------------------------------------------------------------------


def test_findings_of_all_hosts_appear_once_and_others_name_their_hosts():
    same, only_first = Finding("versions", OK, "jax 1"), Finding("aot", SKIPPED, "no compiler")
    fast, slow = Finding("speed", OK, "9 GB/s"), Finding("speed", OK, "8 GB/s")
    lost = Finding("data", PROBLEM, "no such directory", "mount it")
    passed = Finding("data", OK, "24 clips")
    merged = merge([[same, fast, passed, only_first], [same, slow, lost]], ["a", "b"])
    assert merged == [
        same,
        Finding("speed", OK, "9 GB/s, on a"),
        Finding("data", OK, "24 clips, on a"),
        Finding("data", PROBLEM, "process 1 (b): no such directory", "mount it"),
        only_first,
    ]
    shown = table(merged).splitlines()
    assert [line.split()[0] for line in shown] == ["ok", "ok", "ok", "problem", "->", "skipped"]


def test_what_a_check_raises_is_a_problem():
    def fails():
        raise RuntimeError("driver too old")

    assert attempt("devices", fails, "update it") == [
        Finding("devices", PROBLEM, "RuntimeError: driver too old", "update it")
    ]


# Devices -------------------------------------------------------------------------------------------------------------


def test_a_config_that_does_not_divide_the_devices_is_a_problem():
    config = tiny_config()
    assert [finding.status for finding in check_devices(config)] == [OK, OK]
    config.parallel.data = 3
    devices, mesh = check_devices(config)
    assert devices.status == OK and "8 x cpu" in devices.text
    assert mesh.status == PROBLEM and "describes 3 devices, but there are 8" in mesh.text


@pytest.mark.compile
def test_the_sum_over_all_devices_is_measured_and_compared(monkeypatch):
    (right,) = check_all_reduce(create_mesh(MESH))
    assert right.status == OK and "8 devices" in right.text and "GB/s" in right.text
    (alone,) = check_all_reduce(jax.sharding.Mesh(np.array(jax.devices()[:1]), "data"))
    assert alone.status == SKIPPED
    monkeypatch.setattr(jax.lax, "psum", lambda x, axes: x)  # a link that loses everything
    (wrong,) = check_all_reduce(create_mesh(MESH))
    assert wrong.status == PROBLEM and "is wrong on" in wrong.text


# Storage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_a_run_directory_that_is_not_shared_is_found(tmp_path, shared):
    if shared:
        (tmp_path / ".preflight-1").write_text("token of 1")

    def share(name: str, text: str) -> list[str]:
        return [text, ".preflight-1 token of 1"]

    (finding,) = storage.check_run_dir(str(tmp_path), share)
    assert finding.status == (OK if shared else PROBLEM)
    assert ("the same on all 2 hosts" if shared else "the file of process 1 is missing here") in finding.text
    assert [path.name for path in tmp_path.iterdir()] == ([".preflight-1"] if shared else [])  # leaves nothing


def test_a_run_directory_that_cannot_be_written_is_found(tmp_path):
    (tmp_path / "file").write_text("")
    (finding,) = storage.check_run_dir(str(tmp_path / "file" / "run"), lambda name, text: [text])
    assert finding.status == PROBLEM and "cannot write" in finding.text
    (finding,) = storage.check_run_dir("gs://bucket/run", lambda name, text: [text])
    assert finding.status == PROBLEM and "gcsfuse" in finding.remedy


@pytest.mark.compile
def test_checkpoints_that_will_not_fit_on_the_disk_are_found(tmp_path, monkeypatch):
    config = tiny_config()
    transform = create_optimizer(config.optimizer, config.train.steps)
    size = storage.checkpoint_bytes(config)
    assert size == sum(leaf.nbytes for leaf in jax.tree.leaves(create_state(config, transform)))
    usage = namedtuple("usage", "free")
    for free, status in ((4 * size, OK), (4 * size - 1, PROBLEM)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(free))
        (finding,) = storage.check_space(config, str(tmp_path / "not" / "yet"))
        assert finding.status == status


def test_every_data_problem_is_reported(train_data, tmp_path):
    config = tiny_config(str(train_data))
    assert {finding.status for finding in storage.check_data(config)} == {OK}
    config.data.train.scenes.path = "/nowhere"
    config.data.tokenizer = "/nowhere.model"
    config.init_text_from = "/nowhere"
    config.data.augment.update(noise_dir=str(tmp_path), noise_probability=0.5)
    findings = storage.check_data(config)
    assert [(f.check, f.status) for f in findings] == [
        ("data train.scenes", PROBLEM),
        ("tokenizer", PROBLEM),
        ("text tower", PROBLEM),
        ("data noise_dir", PROBLEM),
    ]
    assert all(finding.remedy for finding in findings)


def test_a_vocabulary_that_does_not_fit_the_model_is_reported(train_data):
    config = tiny_config(str(train_data))
    config.model.vocab_size = 10
    (finding,) = [finding for finding in storage.check_data(config) if finding.check == "tokenizer"]
    assert finding.status == PROBLEM and "write vocab_size=" in finding.text


# Pace ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step_seconds", "status"), [(None, OK), (1e3, OK), (1e-9, PROBLEM)])
def test_data_that_is_slower_than_the_step_is_found(train_data, step_seconds, status):
    (finding,) = check_read_speed(tiny_config(str(train_data)), 0.1, step_seconds)
    assert finding.status == status
    assert "s of audio per second" in finding.text
    if status == PROBLEM:
        assert "config.data.workers" in finding.remedy


@pytest.mark.parametrize(
    ("report", "status", "text"),
    [
        ({"fits": True, "bytes_per_device": {"total": 8 << 30}}, OK, "8.00 of 15.75 GiB"),
        ({"fits": False, "bytes_per_device": {"total": 99 << 30}, "reason": "too big"}, PROBLEM, "too big"),
        ({"fits": None, "bytes_per_device": {"total": None}, "reason": "no plug-in", "compile_seconds": None}, SKIPPED,
         "no plug-in"),
    ],
)  # fmt: skip
def test_the_report_of_the_compiler_becomes_a_finding(report, status, text):
    facts = {"topology": "v5e:4x4", "hbm_bytes": int(15.75 * 2**30), "bound_step_seconds": 0.5, "compile_seconds": 9}
    (finding,) = judge_report(facts | report)
    assert finding.status == status
    assert text in finding.text


@pytest.mark.process
def test_the_step_is_compiled_ahead_of_time(train_data):
    config = f"tests/launch/tiny.py:data={train_data}"
    (finding,), report = check_aot(config, ["--config.data.rows=4"], "v5e:2x2")
    assert finding.status == OK, finding
    assert report["bound_step_seconds"] > 0
    (finding,), report = check_aot(config, ["--config.data.rows=6"], "v5e:2x2")  # does not divide
    assert finding.status == PROBLEM and "config.data.rows is 6" in finding.text
    assert report == {}


# The whole -----------------------------------------------------------------------------------------------------------


def arguments(train_data: Path, run_dir: Path, *options: str) -> list[str]:
    config = f"tests/launch/tiny.py:data={train_data}"
    return ["--config", config, "--run-dir", str(run_dir), "--read-seconds", "0.1", *options]


def preflight(train_data: Path, run_dir: Path, *options: str) -> tuple[int, str]:
    script = ("--platform", "cpu", "--devices", "2", "--python", sys.executable, "--", "preflight")
    ended = launch("run.sh", *script, *arguments(train_data, run_dir, *options))
    return ended.returncode, ended.stdout


@pytest.mark.process
def test_all_is_well(train_data, tmp_path):
    code, shown = preflight(train_data, tmp_path / "run", "--json")
    result = json.loads(shown)
    assert (code, result["problems"]) == (0, 0), shown
    statuses = {check["check"]: check["status"] for check in result["checks"]}
    assert [name for name, status in statuses.items() if status == SKIPPED] == ["same config", "aot"]
    assert {"versions", "config", "devices", "mesh", "all-reduce", "run directory", "disk space"} <= statuses.keys()
    assert {"data train.scenes", "tokenizer", "read speed"} <= statuses.keys()


@pytest.mark.process
def test_all_problems_are_reported_at_once(train_data, tmp_path):
    (tmp_path / "file").write_text("")
    bad = ("--config.data.tokenizer=/nowhere", "--config.parallel.data=3", "--topology", "v5e:9x9")
    code, shown = preflight(train_data, tmp_path / "file" / "run", *bad)
    assert code == 1
    problems = [line for line in shown.splitlines() if line.startswith("problem")]
    for check in ("mesh", "run directory", "tokenizer", "aot"):
        assert any(line.split(maxsplit=1)[1].startswith(check) for line in problems), shown
    assert shown.count("->") == len(problems)
    assert shown.splitlines()[-1] == f"{len(problems)} problems"


@pytest.mark.process
def test_a_config_that_cannot_be_read_leaves_the_other_checks(train_data, tmp_path):
    code, shown = preflight(train_data, tmp_path / "run", "--config.model.remta=full")
    assert code == 1
    assert "did you mean config.model.remat?" in shown
    assert "ok       devices" in shown and "ok       run directory" in shown


@pytest.mark.process
def test_hosts_with_different_configs_are_reported(train_data, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = ["--coordinator", f"localhost:{port}", "--processes", "2", "--process-id"]
    script = ["bash", str(LAUNCH / "run.sh"), "--platform", "cpu", "--devices", "1", "--python", sys.executable]
    processes = [
        subprocess.Popen(
            [*script, *together, str(i), "--", "preflight", *arguments(train_data, tmp_path), f"--config.seed={i}"],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for i in range(2)
    ]
    try:
        shown = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [1, 1]
    assert "config.seed: 0 on process 0" in shown[0]
    assert "the same on all 2 hosts" in shown[0]
    assert "2 devices" in shown[0]
    assert "1 problem" in shown[0].splitlines()[-1]
