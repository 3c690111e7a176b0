"""Bounds by hand, for a program whose counts are known."""

import pytest
from ml_collections import ConfigDict

from slap_jax.aot import roofline as module
from slap_jax.aot.program_costs import Costs
from slap_jax.aot.roofline import attention_flops, expected_counts, kernel_flops, roofline
from slap_jax.aot.topology import parse_topology
from slap_jax.config import default_config, source
from slap_jax.flops import audio_encoder_flops, train_step_flops

STATE = {"parameters": 1_000_000, "optimizer": 2_000_000, "teacher": 500_000, "batch": 10_000}


def _config() -> ConfigDict:
    config = default_config()
    config.data.train.clips = source("data", "train")
    config.model.remat = "none"
    return config


def _bound(costs: Costs, sent=(0.0, 0.0), kinds=(), name="v5e:4x4", tensor=1, once=None):
    return roofline(_config(), parse_topology(name), costs, once or costs, kinds, tensor, STATE, sent)


def test_a_batch_holds_what_the_rows_have_room_for():
    counts = expected_counts(_config())
    seconds_of_rows = 256 * 512 * 0.16
    assert counts["audio_seconds"] == pytest.approx(module.FILL * seconds_of_rows)
    assert counts["clips"] == pytest.approx(counts["audio_seconds"] / 10.08)  # 63 columns
    assert counts["audio_tokens_squared"] == pytest.approx(counts["clips"] * (63 * 4) ** 2)
    config = _config()
    config.data.slots = 4  # fewer clips than the columns have room for
    assert expected_counts(config)["clips"] == 256 * 4


def test_useful_flops_are_those_of_training():
    costs = Costs(flops=1e12, seconds=1.0, bytes=1e6)
    assert _bound(costs).useful_flops == train_step_flops(_config(), expected_counts(_config()))


def test_the_longest_time_is_the_bound():
    costs = Costs(flops=1e12, seconds=2.0, bytes=819e9)
    bound = _bound(costs, sent=(100e9, 0.0))
    state = 2 * 3_500_000 + 2 * 1_000_000
    assert bound.seconds == {
        "compute": 2.0,
        "memory": pytest.approx(1.0 + state / 819e9),
        "links": pytest.approx(100e9 / 200e9),
        "network": 0.0,
    }
    assert (bound.limit, bound.step_seconds) == ("compute", 2.0)
    assert bound.mfu == pytest.approx(bound.useful_flops / (2.0 * 16 * 197e12))
    assert _bound(costs, sent=(0.0, 25e9)).limit == "network"  # 3.125 GB/s
    assert _bound(Costs(seconds=1.0, bytes=8_190e9)).limit == "memory"


def test_what_is_computed_twice_is_counted_apart():
    once, costs = Costs(flops=3e12, seconds=1.0), Costs(flops=4e12, seconds=1.3)
    bound = _bound(costs, once=once)
    assert bound.computed_flops == 16 * 4e12
    assert bound.recomputed_flops == 16 * 1e12


def test_tensor_ways_share_the_rows():
    costs = Costs(flops=4e12, seconds=2.0, bytes=819e9)
    shared = _bound(costs, tensor=2)
    assert shared.seconds["compute"] == 1.0
    assert shared.computed_flops == 8 * 4e12


def test_kernels_add_the_pairs_that_see_each_other():
    config, counts = _config(), expected_counts(_config())
    kinds = ("audio_local", "audio_global")
    forward = sum(attention_flops(config.model, counts, kind) for kind in kinds)
    # The whole tower less its matrices: the same with no pairs.
    no_pairs = counts | {"audio_tokens_squared": 0.0}
    assert forward == pytest.approx(
        audio_encoder_flops(config, counts) - audio_encoder_flops(config, no_pairs), rel=1e-12
    )
    # Two passes of the student, forward and seven products backward for two; one of the teacher.
    assert kernel_flops(config, counts, kinds) == pytest.approx((2 * 4.5 + 1) * forward)
    assert kernel_flops(config, counts, kinds, twice=True) == pytest.approx((2 * 5.5 + 1) * forward)
    config.objectives.distillation.weight = 0.0
    assert kernel_flops(config, counts, kinds) == pytest.approx(4.5 * forward)
    config.objectives.contrastive.weight = 0.0
    assert kernel_flops(config, counts, ("text_global",)) == 0.0


def test_a_forward_kernel_that_runs_again_is_counted():
    again = _bound(Costs(kernels=9), kinds=("audio_global",), once=Costs(kernels=6))
    once = _bound(Costs(kernels=6), kinds=("audio_global",))
    assert again.recomputed_flops > 0 == once.recomputed_flops
    assert again.computed_flops == pytest.approx(once.computed_flops * 12 / 10)
