"""MFU: its parts add up to it, and its factors multiply to it."""

import math

import pytest

from slap_jax.flops import train_step_flops
from slap_jax.hardware_use import HardwareUse
from slap_jax.phases import Phases
from slap_jax.speed import Speed
from tests.tiny import tiny_config

VALUES = {
    "clips": 20.0,
    "audio_tokens": 400.0,
    "audio_tokens_squared": 9_000.0,
    "text_tokens": 120.0,
    "text_tokens_squared": 900.0,
    "cross_tokens": 2_500.0,
}


@pytest.fixture
def read():
    """Two steps of two seconds each, a quarter of them waiting for data."""
    now = [0.0]
    phases = Phases(clock=lambda: now[0])
    phases.enter("other")
    speed, use = Speed(phases), HardwareUse(tiny_config(), peak_flops=1e9)
    speed.add(use.flops(VALUES))
    for _ in range(2):
        with phases.during("data"):
            now[0] += 0.5
        now[0] += 1.5
        speed.add({"clips": 20.0} | use.flops(VALUES))
    return use.metrics(speed.read())


def test_mfu_is_the_share_of_the_peak_and_its_parts_add_up(read):
    expected = train_step_flops(tiny_config(), VALUES) / 2.0 / 1e9
    assert read["speed/mfu"] == pytest.approx(expected)
    assert read["speed/flops_per_s"] == pytest.approx(expected * 1e9)
    parts = {name: value for name, value in read.items() if name.startswith("mfu/")}
    assert {"mfu/front_end", "mfu/audio_encoder", "mfu/teacher", "mfu/caption_decoder"} <= set(parts)
    assert sum(parts.values()) == pytest.approx(expected)


def test_the_factors_multiply_to_mfu(read):
    waiting = read["time/data"] / read["time/step"]
    assert waiting == 0.25
    assert read["speed/useful_share"] * (1 - waiting) * read["speed/peak_share"] == pytest.approx(read["speed/mfu"])
    assert 0 < read["speed/useful_share"] < 1


def test_full_rows_are_all_useful():
    config = tiny_config()
    full = {"clips": 8 * 4, "audio_tokens": 8 * 16 * 4, "text_tokens": 8 * 32}
    flops = HardwareUse(config, 1.0).flops(VALUES | full)
    with_padding = flops.pop("flops/with_padding")
    assert math.isclose(sum(flops.values()), with_padding)


def test_other_rates_stay_and_nothing_gives_nothing(read):
    assert read["speed/clips_per_s"] == 10.0
    assert not [name for name in read if name.startswith("speed/flops/")]
    assert HardwareUse(tiny_config(), 1.0).metrics({}) == {}
