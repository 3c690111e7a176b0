"""The watchdog writes the stacks of a stuck process, naming its phase, and keeps quiet while timer change.

A profile of a window of steps; the trace that is written holds them.

Memory of devices and of programs.
"""

import gzip
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from slap_jax.training.diagnostics import (
    ProfileWindow,
    Watchdog,
    describe_program_memory,
    device_memory,
    program_memory,
)
from slap_jax.training.timing import StepTimer

STUCK = """
import sys, threading
from slap_jax.training.timing import StepTimer
from slap_jax.training.diagnostics import Watchdog

def read_forever_from_a_dead_disk():
    threading.Event().wait()

timer = StepTimer()
with Watchdog(sys.argv[1], 0.3, timer):
    timer.enter("other")
    with timer.during("data"):
        read_forever_from_a_dead_disk()
"""


def wait_for_files(directory: Path, count: int) -> list[Path]:
    deadline = time.monotonic() + 120
    while len(files := sorted(directory.glob("stacks/*.txt"))) < count:
        assert time.monotonic() < deadline, "the watchdog wrote nothing"
        time.sleep(0.02)
    return files


@pytest.mark.process
def test_a_stuck_process_says_where(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        first, second = wait_for_files(tmp_path, 2)[:2]  # it writes again if the wait continues
    finally:
        process.kill()
    output = process.communicate()[0]
    for file in (first, second):
        assert file.name.startswith("process-0-")
        assert "process 0 on host" in file.read_text()
        assert "has been waiting for data for" in file.read_text()
    assert "read_forever_from_a_dead_disk" in first.read_text()
    assert f"keeps waiting; the stacks of all threads are in {first}" in output


def test_a_long_compilation_is_named_as_such(tmp_path):
    timer = StepTimer()
    timer.enter("compiling")
    with Watchdog(tmp_path, 0.1, timer):
        (file,) = wait_for_files(tmp_path, 1)[:1]
    assert "has been compiling the step for" in file.read_text()


def test_quiet_while_phases_change(tmp_path):
    """Ten hours pass in which no phase lasts long, then one does."""
    now = [0.0]
    timer = StepTimer(clock=lambda: now[0])
    asked, answer = threading.Semaphore(0), threading.Semaphore(0)

    def clock() -> float:
        asked.release()
        answer.acquire()
        return now[0]

    with Watchdog(tmp_path, 1.0, timer, clock):
        for _ in range(10):
            asked.acquire()
            now[0] += 3_600
            timer.enter("data")
            answer.release()
        asked.acquire()
        assert not (tmp_path / "stacks").exists()
        now[0] += 2.0
        answer.release(10_000)
        wait_for_files(tmp_path, 1)


def test_zero_seconds_is_never(tmp_path):
    before = threading.active_count()
    with Watchdog(tmp_path, 0.0, StepTimer()):
        assert threading.active_count() == before


def test_a_directory_that_cannot_be_written_is_reported_and_survived(tmp_path, caplog):
    (tmp_path / "stacks").write_text("a file")
    timer = StepTimer()
    with Watchdog(tmp_path, 0.05, timer):
        deadline = time.monotonic() + 60
        while "the watchdog cannot write to" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@jax.jit
def _step(x: jax.Array) -> jax.Array:
    return x + 1


def run(profile: ProfileWindow, first: int, last: int) -> None:
    x = jnp.zeros(3)
    for number in range(first, last + 1):
        with profile.step(number):
            x = _step(x)
        profile.stop_after(number, x)


def traced_steps(directory) -> list[int]:
    """The numbers of the steps in a trace, from the copy that Chrome's viewer reads."""
    (file,) = directory.glob("profile/process-0/plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return sorted(int(event["args"]["step_num"]) for event in events if event.get("name") == "train")


@pytest.mark.compile
@pytest.mark.parametrize(
    ("window", "steps", "traced"),
    [((3, 2), (1, 6), [3, 4]), ((3, 4), (5, 8), [5, 6]), ((5, 10), (1, 6), [5, 6])],
    ids=["inside", "resumed in the window", "run ends in the window"],
)
def test_the_window_is_traced(tmp_path, window, steps, traced):
    profile = ProfileWindow(tmp_path, *window)
    run(profile, *steps)
    profile.close()
    profile.close()
    assert traced_steps(tmp_path) == traced


@pytest.mark.compile
def test_no_steps_no_profile(tmp_path):
    for window, steps in (((0, 0), (1, 3)), ((2, 2), (4, 6))):
        profile = ProfileWindow(tmp_path, *window)
        run(profile, *steps)
        profile.close()
    assert list(tmp_path.iterdir()) == []


class Device:
    def __init__(self, statistics):
        self.statistics = statistics

    def memory_stats(self):
        return self.statistics


def test_the_fullest_device_counts():
    devices = [
        Device({"bytes_in_use": 2**30, "peak_bytes_in_use": 3 * 2**30, "bytes_limit": 16 * 2**30}),
        Device({"bytes_in_use": 2**31, "peak_bytes_in_use": 2**31, "bytes_limit": 16 * 2**30}),
    ]
    assert device_memory(devices) == {"memory/in_use_gib": 2.0, "memory/peak_gib": 3.0, "memory/limit_gib": 16.0}


def test_nothing_without_statistics():
    assert device_memory([Device(None)]) == {}
    assert device_memory() == {}  # CPU has none


@pytest.mark.compile
def test_memory_of_a_program_by_kind():
    def add(x: jax.Array, y: jax.Array) -> jax.Array:
        return x + y

    array = jax.ShapeDtypeStruct((1_024,), jnp.float32)
    memory = program_memory(jax.jit(add, donate_argnums=0).lower(array, array).compile())
    assert memory["arguments"] == 2 * 4_096
    assert memory["outputs"] == memory["in_place"] == 4_096
    sentence = describe_program_memory({**memory, "temporaries": 3 * 2**30, "code": 0})
    assert sentence.startswith("a step needs 3.000 GiB per device (arguments 0.000, ")
    assert "does not report" in describe_program_memory({})
