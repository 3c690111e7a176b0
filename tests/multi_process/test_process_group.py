"""If processes are inconsistent, missing or fail, all of them end in time and say why."""

import json
import signal

import pytest

from slap_jax.parallel.process_group import EXIT_LOST
from tests.multi_process.processes import outputs_of, started

pytestmark = pytest.mark.process


def train(train_data, run_dir, **overrides) -> list[str]:
    return ["-m", "tests.train_worker", str(train_data), str(run_dir), "8", json.dumps(overrides)]


def test_different_configs_are_refused_by_both_before_anything_is_compiled(train_data, tmp_path):
    run_dir = tmp_path / "run"
    different = {"optimizer.learning_rate": 0.5, "data.rows": 16}
    with started([train(train_data, run_dir), train(train_data, run_dir, **different)], devices=2) as processes:
        outputs = outputs_of(processes)
    assert [process.returncode for process in processes] == [1, 1]
    for output in outputs:
        assert "ConfigError: the processes of this run differ:\n  config.data.rows: 8 on process 0 (" in output
        assert "; 16 on process 1 (" in output
        assert "  config.optimizer.learning_rate: 0.01 on process 0 (" in output
        assert "compiling" not in output
    assert not run_dir.exists()


def test_different_data_are_refused_by_both(train_data, tmp_path):
    copies = [tmp_path / name for name in ("a", "b")]
    for copy in copies:
        copy.mkdir()
        for part in ("scenes", "tokenizer.model"):
            (copy / part).symlink_to(train_data / part)
    # The same path with different files on two machines, simulated by two working directories.
    (copies[1] / "tokenizer.model").unlink()
    (copies[1] / "tokenizer.model").write_bytes((train_data / "tokenizer.model").read_bytes() + b"\x12\x00")
    command = ["-c", RUN_IN, "{}", str(tmp_path / "run")]
    with started([[*command[:2], str(copy), *command[3:]] for copy in copies]) as processes:
        outputs = outputs_of(processes)
    assert [process.returncode for process in processes] == [1, 1]
    for output in outputs:
        assert "this run differ:\n  training.tokenizer: " in output
        assert "compiling" not in output


RUN_IN = """
import os, sys
sys.path.insert(0, os.getcwd())
import tests.conftest
from slap_jax.train import main
from tests.train_worker import config_of
os.chdir(sys.argv[1])
sys.exit(main(config_of(".", 8), sys.argv[2]))
"""


def test_a_process_that_times_out_names_the_missing_ones(train_data, tmp_path):
    limits = {"distributed.initialization_timeout": 3, "distributed.heartbeat_timeout": 10}
    with started([train(train_data, tmp_path / "run", **limits)], count=2) as processes:
        (output,) = outputs_of(processes)
    assert processes[0].returncode != 0
    assert "waiting for all 2 processes (this is process 0; coordinator 127.0.0.1:" in output
    assert "timed out waiting for all 2 processes (this is process 0" in output
    assert "not all arrived within 3 s (config.distributed.initialization_timeout)" in output


def fail(run_dir, who: str) -> list[str]:
    return ["-m", "tests.multi_process.process_group_worker", str(run_dir), who]


def test_a_process_that_fails_leaves_at_once_and_the_other_ends(tmp_path):
    with started([fail(tmp_path, "one")] * 2) as processes:
        waiting, failed = outputs_of(processes)
    assert processes[1].returncode == 2
    assert "process 1 of 2" in failed
    assert "an error that the others do not have: ConfigError: config.nonsense is 3; write 4" in failed
    assert processes[0].returncode in (EXIT_LOST, -signal.SIGABRT)
    assert "slap: process 0 of 2" in waiting
    assert "another process of the run was lost" in waiting


def test_an_error_of_all_is_raised_as_usual(tmp_path):
    with started([fail(tmp_path, "both")] * 2) as processes:
        outputs = outputs_of(processes)
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 1
        assert "ConfigError: config.nonsense is 3; write 4" in output
        assert "slap:" not in output
