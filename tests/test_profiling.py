"""A profile of a window of steps; the trace that is written holds them."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from slap_jax.profiling import ProfileWindow


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


def test_no_steps_no_profile(tmp_path):
    for window, steps in (((0, 0), (1, 3)), ((2, 2), (4, 6))):
        profile = ProfileWindow(tmp_path, *window)
        run(profile, *steps)
        profile.close()
    assert list(tmp_path.iterdir()) == []
