"""Phases of the training script: only the innermost counts, and the present one too."""

from slap_jax.phases import Phases


def test_only_the_innermost_phase_counts():
    now = [0.0]
    phases = Phases(clock=lambda: now[0])
    now[0] = 3.0
    phases.enter("other")
    with phases.during("checkpoint"):
        now[0] = 5.0
        with phases.during("device"):
            now[0] = 9.0
        now[0] = 10.0
    now[0] = 10.5
    seconds = phases.seconds()
    assert {name: spent for name, spent in seconds.items() if spent} == {
        "starting": 3.0,
        "checkpoint": 3.0,
        "device": 4.0,
        "other": 0.5,
    }
    assert phases.present == ("other", 10.0)


def test_an_error_inside_ends_the_phase():
    phases = Phases(clock=lambda: 0.0)
    try:
        with phases.during("data"):
            raise StopIteration
    except StopIteration:
        pass
    assert phases.present[0] == "starting"
