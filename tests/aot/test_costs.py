"""Costs and bounds of programs with counts computed by hand, and bytes by kind."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from ml_collections import ConfigDict

from slap_jax.aot import costs as module
from slap_jax.aot.costs import (
    Costs,
    attention_flops,
    expected_counts,
    gradient_costs,
    kernel_flops,
    program_costs,
    residual_bytes,
    roofline,
)
from slap_jax.aot.memory import argument_bytes, compiled_memory, out_of_memory
from slap_jax.aot.topology import CHIPS, parse_topology
from slap_jax.config.defaults import default_config, source
from slap_jax.parallel.sharding import compiling_for, create_mesh
from slap_jax.training.flops import audio_encoder_flops, train_step_flops
from slap_jax.training.step import step_program
from tests.tiny import tiny_config

pytestmark = pytest.mark.compile

STATE = {"parameters": 1_000_000, "optimizer": 2_000_000, "teacher": 500_000, "batch": 10_000}


def _config() -> ConfigDict:
    config = default_config()
    config.data.train.clips = source("data", "train")
    config.model.remat = "none"
    return config


def _bound(costs: Costs, sent=(0.0, 0.0), kinds=(), name="v5e:4x4", tensor=1, once=None):
    return roofline(_config(), parse_topology(name), costs, once or costs, kinds, tensor, STATE, sent)


def test_a_full_batch_fills_the_rows():
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


def test_the_slowest_resource_is_the_bound():
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


def test_recomputed_flops_are_counted_separately():
    once, costs = Costs(flops=3e12, seconds=1.0), Costs(flops=4e12, seconds=1.3)
    bound = _bound(costs, once=once)
    assert bound.computed_flops == 16 * 4e12
    assert bound.recomputed_flops == 16 * 1e12


def test_tensor_shards_share_the_rows():
    costs = Costs(flops=4e12, seconds=2.0, bytes=819e9)
    shared = _bound(costs, tensor=2)
    assert shared.seconds["compute"] == 1.0
    assert shared.computed_flops == 8 * 4e12


def test_attention_kernels_count_only_unmasked_pairs():
    config, counts = _config(), expected_counts(_config())
    kinds = ("audio_local", "audio_global")
    forward = sum(attention_flops(config.model, counts, kind) for kind in kinds)
    # The whole tower less its matrices: the same with no pairs.
    no_pairs = counts | {"audio_tokens_squared": 0.0, "audio_local_pairs": 0.0}
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


def test_classification_alone_counts_the_audio_tower_only():
    config, counts = _config(), expected_counts(_config())
    for objective in config.objectives.values():
        objective.weight = 0.0
    config.objectives.classification.weight = 1.0
    forward = attention_flops(config.model, counts, "audio_global")
    assert kernel_flops(config, counts, ("audio_global",)) == pytest.approx(4.5 * forward)


def test_a_recomputed_forward_kernel_is_counted():
    again = _bound(Costs(kernels=9), kinds=("audio_global",), once=Costs(kernels=6))
    once = _bound(Costs(kernels=6), kinds=("audio_global",))
    assert again.recomputed_flops > 0 == once.recomputed_flops
    assert again.computed_flops == pytest.approx(once.computed_flops * 12 / 10)


V5E = CHIPS["v5e"]


def _count(function, *shapes, dtype=jnp.bfloat16, chip=V5E):
    return program_costs(
        jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)).jaxpr, chip
    )


def test_a_matrix_product_counts_flops_and_bytes():
    costs = _count(lambda a, b: a @ b, (8, 16), (16, 32))
    assert costs.flops == 2 * 8 * 16 * 32
    assert costs.bytes == 2 * (8 * 16 + 16 * 32 + 8 * 32)
    assert costs.seconds == pytest.approx(costs.flops / 197e12)


def test_a_scan_counts_every_iteration():
    def turns(x):
        return jax.lax.scan(lambda x, _: (jax.lax.scan(lambda x, _: (x @ x, None), x, None, 3)[0], None), x, None, 5)[0]

    assert _count(turns, (4, 4)).flops == 15 * 2 * 4**3


def test_the_most_expensive_branch_counts():
    def branches(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert _count(branches, (4, 4)).flops == 2 * 2 * 4**3


@pytest.mark.parametrize(
    ("chip", "precision", "factor"),
    [("v5e", None, 1), ("v5e", "highest", 6), ("h100", None, 2), ("h100", "highest", 989 / 67)],
)
def test_fp32_products_take_longer(chip, precision, factor):
    costs = _count(lambda a: jnp.matmul(a, a, precision=precision), (8, 8), dtype=jnp.float32, chip=CHIPS[chip])
    assert costs.seconds == pytest.approx(factor * costs.flops / CHIPS[chip].peak_flops)


def test_kernels_and_unbounded_loops_are_reported_but_not_counted():
    def kernel(x_ref, y_ref):
        y_ref[...] = x_ref[...] @ x_ref[...]

    def with_both(x):
        y = pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((8, 8), x.dtype))(x)
        return jax.lax.while_loop(lambda y: y[0, 0] < 1, lambda y: y @ y, y)

    costs = _count(with_both, (8, 8))
    assert (costs.flops, costs.kernels, costs.open_loops) == (0, 1, 1)
    assert costs.bytes == 2 * 2 * 8 * 8


def test_cost_is_linear_in_rows_and_rematerialisation_adds_to_it():
    config = tiny_config(distillation=0.0)
    with compiling_for("tpu"):
        two, four = gradient_costs(config, 2, V5E), gradient_costs(config, 4, V5E)
        config.model.remat = "full"
        again = gradient_costs(config, 4, V5E)
    # All but the contrastive loss, which is small here, is in proportion to the rows.
    assert four.flops == pytest.approx(2 * two.flops, rel=0.05)
    assert again.flops > four.flops


def test_rematerialisation_keeps_fewer_residuals():
    config = tiny_config(distillation=0.0)
    kept = {}
    for remat in ("none", "dots", "full"):
        config.model.remat = remat
        kept[remat] = residual_bytes(config, 2)
    assert kept["none"] > kept["dots"] > kept["full"] > 0


def test_residuals_grow_with_the_rows():
    config = tiny_config(distillation=0.0, captioning=0.0)
    two, four = residual_bytes(config, 2), residual_bytes(config, 4)
    assert four == pytest.approx(2 * two, rel=0.05)


GIB = 2**30


def test_argument_bytes_on_one_device_and_sharded():
    config = tiny_config()
    sizes = {}
    for fsdp in (1, 8):
        config.parallel.fsdp = fsdp
        program = step_program(config, create_mesh(config.parallel))
        sizes[fsdp] = argument_bytes(program)
    state = program.state
    whole = {name: sum(leaf.size for leaf in jax.tree.leaves(getattr(state, name))) for name in ("params", "teacher")}
    assert sizes[1]["parameters"] == 4 * whole["params"]
    assert sizes[1]["teacher"] == 4 * whole["teacher"]
    assert sizes[1]["optimizer"] == pytest.approx(2 * sizes[1]["parameters"], abs=16)  # and its counters
    assert sizes[8]["parameters"] < sizes[1]["parameters"] / 3
    # Rows are split over both axes: the same batch on each device.
    assert (
        sizes[1]["batch"]
        == sizes[8]["batch"]
        == sum(leaf.size * leaf.dtype.itemsize // 8 for leaf in jax.tree.leaves(program.batch))
    )


def test_a_compiled_step_names_its_state():
    step = jax.jit(lambda state, x: (state + x, x.sum()), donate_argnums=0)
    memory = compiled_memory(step.lower(*[jax.ShapeDtypeStruct((1_000,), "float32")] * 2).compile())
    assert (memory.arguments, memory.in_place, memory.message) == (8_000, 4_000, "")


@pytest.mark.parametrize(
    ("text", "temporaries", "capacity"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (142.5G) "
            "exceeds available HBM (15.75G).",
            142.5,
            15.75,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 21.50G "
            "of 15.75G hbm. Exceeded hbm capacity by 5.75G.\n\nTotal hbm usage >= 22.00G:\n    HLO temp  20.25G",
            20.25,
            15.75,
        ),
        ("RESOURCE_EXHAUSTED: Out of memory", None, None),
    ],
)
def test_out_of_memory_errors_are_read(text, temporaries, capacity):
    memory = out_of_memory(RuntimeError(text))
    assert memory is not None
    assert memory.temporaries == (None if temporaries is None else round(temporaries * GIB))
    assert memory.capacity == (None if capacity is None else round(capacity * GIB))
    assert memory.message == text.splitlines()[0]


def test_other_errors_are_not():
    assert out_of_memory(RuntimeError("INTERNAL: the compiler has a bug")) is None
