"""Counts of a traced program against sums by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from slap_jax.aot.chips import CHIPS
from slap_jax.aot.program_costs import count, gradient_costs, kept_for_backward
from slap_jax.parallel.platform import compiling_for
from tests.tiny import tiny_config

V5E = CHIPS["v5e"]


def _count(function, *shapes, dtype=jnp.bfloat16, chip=V5E):
    return count(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)).jaxpr, chip)


def test_a_product_counts_its_operations_and_bytes():
    costs = _count(lambda a, b: a @ b, (8, 16), (16, 32))
    assert costs.flops == 2 * 8 * 16 * 32
    assert costs.bytes == 2 * (8 * 16 + 16 * 32 + 8 * 32)
    assert costs.seconds == pytest.approx(costs.flops / 197e12)


def test_a_scan_counts_every_turn():
    def turns(x):
        return jax.lax.scan(lambda x, _: (jax.lax.scan(lambda x, _: (x @ x, None), x, None, 3)[0], None), x, None, 5)[0]

    assert _count(turns, (4, 4)).flops == 15 * 2 * 4**3


def test_the_dearest_branch_counts():
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


def test_kernels_and_open_loops_are_seen_but_not_counted():
    def kernel(x_ref, y_ref):
        y_ref[...] = x_ref[...] @ x_ref[...]

    def with_both(x):
        y = pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((8, 8), x.dtype))(x)
        return jax.lax.while_loop(lambda y: y[0, 0] < 1, lambda y: y @ y, y)

    costs = _count(with_both, (8, 8))
    assert (costs.flops, costs.kernels, costs.open_loops) == (0, 1, 1)
    assert costs.bytes == 2 * 2 * 8 * 8


def test_rows_cost_alike_and_rematerialisation_more():
    config = tiny_config(distillation=0.0)
    with compiling_for("tpu"):
        two, four = gradient_costs(config, 2, V5E), gradient_costs(config, 4, V5E)
        config.model.remat = "full"
        again = gradient_costs(config, 4, V5E)
    # All but the contrastive loss, which is small here, is in proportion to the rows.
    assert four.flops == pytest.approx(2 * two.flops, rel=0.05)
    assert again.flops > four.flops


def test_rematerialisation_keeps_less():
    config = tiny_config(distillation=0.0)
    kept = {}
    for remat in ("none", "dots", "full"):
        config.model.remat = remat
        kept[remat] = kept_for_backward(config, 2)
    assert kept["none"] > kept["dots"] > kept["full"] > 0


def test_what_is_kept_grows_with_the_rows():
    config = tiny_config(distillation=0.0, captioning=0.0)
    two, four = kept_for_backward(config, 2), kept_for_backward(config, 4)
    assert four == pytest.approx(2 * two, rel=0.05)
