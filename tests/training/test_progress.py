"""Progress on the console: evaluations are visible, and do not slow down the steps that the bar reports."""

import io
import logging
import sys

import pytest
import tqdm.std

from slap_jax.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_an_evaluation_shows_how_far_it_is_on_a_terminal():
    stream = Terminal()
    progress = Progress(stream, total_steps=4, start=0)
    with progress.evaluation() as shown:
        for done in (0, 20, 64):
            shown("clips", done, 64)
            assert f"evaluating clips: {done} of 64 clips" in stream.getvalue()
        shown("scenes", 0, 12)
    progress.note("step 2: clips t2a R@1 0.050 (chance 0.030)")
    progress.close()
    assert "evaluating scenes: 0 of 12 clips" in stream.getvalue()
    assert "\nstep 2: clips t2a R@1 0.050 (chance 0.030)\n" in stream.getvalue().replace("\r", "\n")


def test_the_time_of_an_evaluation_is_not_that_of_a_step(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])
    stream = Terminal()
    progress = Progress(stream, total_steps=4, start=0)
    for step in (1, 2):
        now[0] += 2.0
        progress.step(step, {"loss/total": 1.0})
    with progress.evaluation() as shown:
        shown("clips", 0, 64)
        now[0] += 100.0
        shown("clips", 64, 64)
    now[0] += 2.0
    progress.step(3, {"loss/total": 1.0})
    progress.close()
    last = stream.getvalue().split("\r")[-1]
    assert "3/4" in last and "2.00s/step" in last and "00:06<00:02" in last


def test_messages_of_the_log_do_not_break_the_bar(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    root, handler = logging.getLogger(), logging.StreamHandler(stream)
    root.addHandler(handler)
    progress = Progress(stream, total_steps=4, start=0)
    try:
        logging.warning("a message")
    finally:
        progress.close()
        assert handler in root.handlers  # the user's again
        root.removeHandler(handler)
    assert "\ra message\n" in stream.getvalue().replace(" ", "").replace("amessage", "a message")


@pytest.mark.parametrize(("seconds", "lines"), [(0.1, 0), (20.0, 3)])
def test_away_from_a_terminal_only_a_long_evaluation_gets_lines(seconds, lines):
    now = [0.0]
    stream = io.StringIO()
    progress = Progress(stream, 10, 0, clock=lambda: now[0])
    with progress.evaluation() as shown:
        for done in range(0, 101, 5):
            now[0] += seconds
            shown("clips", done, 100)
    expected = [f"evaluating clips: {done} of 100 clips" for done in (25, 50, 75)]
    assert stream.getvalue().splitlines() == expected[:lines]
