"""The stack: what a layer attends to, and that rematerialisation, unrolling and dtype change only the cost."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slap_jax.models.layers import rotation_1d
from slap_jax.models.transformer import Transformer

pytestmark = pytest.mark.compile

SIZES: dict[str, Any] = {
    "layers": 4,
    "heads": 2,
    "width": 16,
    "mlp_width": 24,
    "locals_per_global": 1,
    "local_window": 2,
}


def build(**changes):
    settings = SIZES | {"dtype": jnp.float32} | changes
    return Transformer(**settings, rngs=nnx.Rngs(0))


def inputs(pack, lengths=((7, 13), (20,)), length=24):
    segments, index = pack([list(row) for row in lengths], length)
    x = np.random.default_rng(0).standard_normal((len(lengths), length, 16)).astype(np.float32)
    return jnp.asarray(x), segments, rotation_1d(jnp.asarray(index), 8, 100.0)


def value_and_gradient(model, x, segments, rotation):
    graphdef, params = nnx.split(model)

    @jax.jit
    def both(params):
        def loss(params):
            out = nnx.merge(graphdef, params)(x, segments, rotation).astype(jnp.float32)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

        (_, out), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return out, gradient

    return both(params)


@pytest.mark.parametrize("change", [{"remat": "full"}, {"remat": "dots"}, {"scan_unroll": 2}, {"scan_unroll": 9}])
def test_memory_and_unrolling_choices_leave_values_and_gradients(pack, change):
    data = inputs(pack)
    expected, got = value_and_gradient(build(), *data), value_and_gradient(build(**change), *data)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), expected, got)


def test_remat_full_keeps_fewer_values_for_the_backward_pass(pack):
    x, segments, rotation = inputs(pack)

    def saved(remat):
        graphdef, params = nnx.split(build(remat=remat))
        _, pull = jax.eval_shape(lambda p: jax.vjp(lambda p: nnx.merge(graphdef, p)(x, segments, rotation), p), params)
        return sum(leaf.size for leaf in jax.tree.leaves(pull))

    assert saved("full") < saved("dots") < saved("none")


def test_local_layers_see_the_window_and_global_ones_the_clip(pack):
    x, segments, rotation = inputs(pack)

    def reach(model):
        jacobian = jax.jacobian(lambda x: model(x, segments, rotation)[1, 10].sum())(x)
        rows, places = np.nonzero(np.abs(np.asarray(jacobian)).max(-1))
        assert set(rows) == {1}
        return set(places)

    model = build(layers=2)
    assert reach(model) == set(range(20))
    # Zeroing the output weights of the global layer leaves one local layer.
    out = model.blocks.layers["global"].attention.out.kernel
    out[...] = jnp.zeros_like(out[...])
    assert reach(model) == set(range(8, 13))


def test_bfloat16_computes_in_bfloat16_and_is_close(pack):
    data = inputs(pack)
    model = build(dtype=jnp.bfloat16)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.split(model)[1]))
    assert model(*data).dtype == jnp.bfloat16
    expected, gradient = value_and_gradient(build(), *data)
    got, half_gradient = value_and_gradient(model, *data)
    np.testing.assert_allclose(got, expected, atol=0.1)
    for a, b in zip(jax.tree.leaves(half_gradient), jax.tree.leaves(gradient), strict=True):
        assert a.dtype == jnp.float32
        assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(b)


def test_the_residual_stream_keeps_its_scale_at_any_depth(pack):
    x, segments, rotation = inputs(pack)
    for layers in (2, 12):
        model = build(layers=layers)
        # The final norm would hide the scale of the residual stream.
        setattr(model, "norm", lambda x: x)  # noqa: B010 (to a type checker it stays a norm)
        assert 0.9 < float(jnp.std(model(x, segments, rotation))) < 1.6


def test_compiled_program_does_not_grow_with_depth(pack):
    data = inputs(pack)

    def lines(layers):
        graphdef, params = nnx.split(build(layers=layers))
        return jax.jit(lambda p: nnx.merge(graphdef, p)(*data)).lower(params).as_text().count("\n")

    assert lines(12) == lines(4)
