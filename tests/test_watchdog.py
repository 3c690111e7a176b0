"""The watchdog writes the stacks of a stuck process, naming its phase, and keeps quiet while phases change."""

import subprocess
import sys
import threading
import time
from pathlib import Path

from slap_jax.phases import Phases
from slap_jax.watchdog import Watchdog

STUCK = """
import sys, threading
from slap_jax.phases import Phases
from slap_jax.watchdog import Watchdog

def read_forever_from_a_dead_disk():
    threading.Event().wait()

phases = Phases()
with Watchdog(sys.argv[1], 0.3, phases):
    phases.enter("other")
    with phases.during("data"):
        read_forever_from_a_dead_disk()
"""


def wait_for_files(directory: Path, count: int) -> list[Path]:
    deadline = time.monotonic() + 120
    while len(files := sorted(directory.glob("stacks/*.txt"))) < count:
        assert time.monotonic() < deadline, "the watchdog wrote nothing"
        time.sleep(0.02)
    return files


def test_a_stuck_process_says_where(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        first, second = wait_for_files(tmp_path, 2)[:2]  # it writes again when the wait goes on
    finally:
        process.kill()
    output = process.communicate()[0]
    for file in (first, second):
        assert file.name.startswith("process-0-")
        assert "process 0 on host" in file.read_text()
        assert "has been waiting for data for" in file.read_text()
    assert "read_forever_from_a_dead_disk" in first.read_text()
    assert f"it goes on waiting. Stacks of all threads: {first}" in output


def test_a_long_compilation_is_named_as_such(tmp_path):
    phases = Phases()
    phases.enter("compiling")
    with Watchdog(tmp_path, 0.1, phases):
        (file,) = wait_for_files(tmp_path, 1)[:1]
    assert "has been compiling the step for" in file.read_text()


def test_quiet_while_phases_change(tmp_path):
    """Ten hours pass in which no phase lasts long, then one does."""
    now = [0.0]
    phases = Phases(clock=lambda: now[0])
    asked, answer = threading.Semaphore(0), threading.Semaphore(0)

    def clock() -> float:
        asked.release()
        answer.acquire()
        return now[0]

    with Watchdog(tmp_path, 1.0, phases, clock):
        for _ in range(10):
            asked.acquire()
            now[0] += 3_600
            phases.enter("data")
            answer.release()
        asked.acquire()
        assert not (tmp_path / "stacks").exists()
        now[0] += 2.0
        answer.release(10_000)
        wait_for_files(tmp_path, 1)


def test_zero_seconds_is_never(tmp_path):
    before = threading.active_count()
    with Watchdog(tmp_path, 0.0, Phases()):
        assert threading.active_count() == before


def test_a_directory_that_cannot_be_written_is_told_and_survived(tmp_path, caplog):
    (tmp_path / "stacks").write_text("a file")
    phases = Phases()
    with Watchdog(tmp_path, 0.05, phases):
        deadline = time.monotonic() + 60
        while "the watchdog cannot write to" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
