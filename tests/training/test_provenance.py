"""Every start of a run is recorded: the code, the command, the versions and the hardware."""

import json
import shutil
import socket
import subprocess
import sys

import jax
import pytest

from slap_jax.training.provenance import FILE_NAME, Provenance, code_version, command_line, machine, read_provenance


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.mark.process
def test_every_start_and_its_end_are_recorded(tmp_path):
    first = Provenance(tmp_path, seed=3, restored_step=0)
    (start,) = read_provenance(tmp_path)
    assert start["seed"] == 3 and start["first_step"] == 0
    assert start["ended"] is start["outcome"] is start["last_step"] is None  # as after a kill
    assert start["versions"]["jax"] == jax.__version__ and start["versions"]["python"].startswith("3.")
    assert start["platform"] == "cpu" and sum(start["devices"].values()) == jax.device_count()
    assert start["machine"]["cores"] > 0 and start["command"] == command_line(sys.orig_argv, sys.argv)
    first.finish(7, "interrupted")
    second = Provenance(tmp_path, seed=3, restored_step=7)
    second.finish(12, "finished")
    ends = [(start["first_step"], start["last_step"], start["outcome"]) for start in read_provenance(tmp_path)]
    assert ends == [(0, 7, "interrupted"), (7, 12, "finished")]
    assert all(start["started"] <= start["ended"] for start in read_provenance(tmp_path))
    Provenance(tmp_path / "none", seed=0, restored_step=0, enabled=False).finish(1, "finished")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xe9", b'{"starts": 3}', b'{"starts": [1]}'])
def test_a_damaged_file_is_mentioned_and_does_not_stop_the_run(tmp_path, caplog, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    assert read_provenance(tmp_path) == []
    assert f"{tmp_path / FILE_NAME} cannot be read" in caplog.text


def test_the_host_is_not_named():
    assert set(machine()) == {"system", "architecture", "processor", "cores"}
    assert socket.gethostname() not in json.dumps(machine())


@pytest.mark.parametrize(
    ("original", "arguments", "command"),
    [
        (["/v/python", "/v/bin/slap", "train", "--run-dir", "a b"], ["/v/bin/slap", "train", "--run-dir", "a b"], None),
        (
            ["python", "-u", "-m", "slap_jax.cli", "train", "--run-dir", "a b"],
            ["/x/slap_jax/cli/__main__.py", "train", "--run-dir", "a b"],
            None,
        ),
        (["python", "work/mine.py", "-m", "x"], ["work/mine.py", "-m", "x"], "python mine.py -m x"),
        (["python", "-m", "tests.worker", "1"], ["/x/tests/worker.py", "1"], "python -m tests.worker 1"),
        (["python", "-c", "pass"], ["-c"], "python -c"),
    ],
)
def test_the_command_reads_as_typed(original, arguments, command):
    assert command_line(original, arguments) == (command or "slap train --run-dir 'a b'")


@pytest.mark.process
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_of_a_checkout_and_whether_it_was_changed(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert code_version(package) is None  # no checkout
    git(tmp_path, "init", "-q")
    assert code_version(package) is None  # installed below the repository of somebody else
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    committed = code_version(package)
    assert committed is not None and len(committed["commit"]) == 40 and committed["modified"] is False
    (tmp_path / "scratch.txt").write_text("")
    assert code_version(package) == committed  # a file that is not tracked changes no code
    (package / "__init__.py").write_text("x = 1\n")
    assert code_version(package) == {**committed, "modified": True}
