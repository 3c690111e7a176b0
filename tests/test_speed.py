"""Speed between two readings: counts per second, and the parts of a step's time."""

import pytest

from slap_jax.phases import Phases
from slap_jax.speed import Speed


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


def test_speed_counts_only_the_time_between_steps():
    clock = Clock()
    phases = Phases(clock)
    speed = Speed(phases)
    clock.passes(60)  # compilation
    phases.enter("other")
    clock.passes(1)  # the first step
    speed.add({"clips": 5})
    assert speed.read() == {}
    clock.passes(2)
    speed.add({"clips": 6})
    with phases.during("evaluation"):
        clock.passes(100)
    clock.passes(2)
    speed.add({"clips": 10})
    read = speed.read()
    assert read["speed/clips_per_s"] == 4.0
    assert read["speed/steps_per_s"] == 0.5
    assert read["time/step"] == 2.0
    assert speed.read() == {}


def test_the_parts_of_a_step_add_up_to_it():
    clock = Clock()
    phases = Phases(clock)
    speed = Speed(phases)
    phases.enter("other")
    speed.add({})
    spent = {"data": 0.5, "dispatch": 0.25, "device": 2.0}
    for _ in range(4):
        for part, seconds in spent.items():
            with phases.during(part):
                clock.passes(seconds)
        clock.passes(0.125)
        speed.add({})
    with phases.during("checkpoint"):
        clock.passes(4)
    read = speed.read()
    assert {name: value for name, value in read.items() if name.startswith("time/")} == {
        "time/step": 3.875,
        "time/data": 0.5,
        "time/dispatch": 0.25,
        "time/device": 2.0,
        "time/checkpoint": 1.0,
        "time/other": 0.125,
    }
    assert sum(read[f"time/{part}"] for part in (*spent, "checkpoint", "other")) == pytest.approx(read["time/step"])
