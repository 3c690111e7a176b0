"""Goodput over restarts: every second of a run has one reason, and repeated steps count once.

Phases of the training script: only the innermost counts, including the current one.
"""

import json

import pytest

from slap_jax.training.timing import FILE_NAME, PHASES, Goodput, Session, StepTimer, read_sessions, time_fractions


def session(started: float, ended: float, restored: int, last: int, **seconds: float) -> Session:
    return Session(started, ended, restored, last, {**dict.fromkeys(PHASES, 0.0), **seconds})


def test_a_killed_and_resumed_run():
    first = session(1_000, 1_100, 0, 40, starting=5, compiling=15, dispatch=10, device=60, other=10)
    # Killed at step 40, ten seconds later started again from the checkpoint of step 30.
    second = session(1_110, 1_200, 30, 70, compiling=20, restoring=10, device=40, data=12, checkpoint=8)
    shares = time_fractions([first, second])
    assert sum(shares.values()) == pytest.approx(1)
    assert {reason: round(200 * share, 6) for reason, share in shares.items()} == {
        "training": 80 * 30 / 40 + 40,
        "repeated": 80 * 10 / 40,
        "data": 12,
        "checkpoint": 8,
        "evaluation": 0,
        "starting": 5,
        "compiling": 35,
        "restoring": 10,
        "down": 10,
    }


def test_steps_lost_by_a_later_restart_count_as_repeated_too():
    runs = [
        session(0, 10, 0, 10, device=10),
        session(10, 20, 10, 20, device=10),
        session(20, 40, 5, 25, device=20),  # its newest checkpoint was lost, so it resumed from step 5
    ]
    shares = time_fractions(runs)
    assert shares["training"] == pytest.approx((5 + 20) / 40)
    assert shares["repeated"] == pytest.approx((5 + 10) / 40)
    assert shares["down"] == pytest.approx(0)


def test_kill_and_resume_with_a_clock(tmp_path):
    now = [100.0]

    def clock() -> float:
        return now[0]

    timer = StepTimer(clock)
    now[0] = 120.0  # starting
    timer.enter("other")
    goodput = Goodput(tmp_path, timer, restored_step=0, clock=clock)
    now[0] = 130.0
    assert goodput.update(10)["goodput"] == pytest.approx(10 / 30)
    now[0] = 140.0  # killed before its next line: these ten seconds look like down time

    now[0] = 150.0
    timer = StepTimer(clock)
    now[0] = 155.0
    timer.enter("other")
    goodput = Goodput(tmp_path, timer, restored_step=5, clock=clock)
    now[0] = 160.0
    metrics = goodput.update(10)
    assert metrics["goodput"] == pytest.approx((5 + 5) / 60)
    assert metrics["run_time/repeated"] == pytest.approx(5 / 60)
    assert metrics["run_time/starting"] == pytest.approx(25 / 60)
    assert metrics["run_time/down"] == pytest.approx(20 / 60)
    assert sum(metrics.values()) == pytest.approx(1)
    assert [(run.restored_step, run.last_step) for run in read_sessions(tmp_path / FILE_NAME)] == [(0, 10), (5, 10)]
    assert goodput.describe(10).startswith("goodput 16.7% of 0.02 h since the run first started; other: starting 42%")


def test_other_processes_leave_the_file_alone(tmp_path):
    assert Goodput(tmp_path, StepTimer(), 0, enabled=False).update(3) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["{", "[]", '{"sessions": [{"started": 1}]}'])
def test_a_damaged_file_does_not_stop_training(tmp_path, caplog, content):
    (tmp_path / FILE_NAME).write_text(content)
    goodput = Goodput(tmp_path, StepTimer(), 0)
    assert "goodput counts from this session on" in caplog.text
    goodput.update(1)
    assert len(json.loads((tmp_path / FILE_NAME).read_text())["sessions"]) == 1


def test_only_the_innermost_phase_counts():
    now = [0.0]
    timer = StepTimer(clock=lambda: now[0])
    now[0] = 3.0
    timer.enter("other")
    with timer.during("checkpoint"):
        now[0] = 5.0
        with timer.during("device"):
            now[0] = 9.0
        now[0] = 10.0
    now[0] = 10.5
    seconds = timer.seconds()
    assert {name: spent for name, spent in seconds.items() if spent} == {
        "starting": 3.0,
        "checkpoint": 3.0,
        "device": 4.0,
        "other": 0.5,
    }
    assert timer.current == ("other", 10.0)


def test_an_error_inside_ends_the_phase():
    timer = StepTimer(clock=lambda: 0.0)
    try:
        with timer.during("data"):
            raise StopIteration
    except StopIteration:
        pass
    assert timer.current[0] == "starting"
