"""Every backend on meshes of 8 devices: each computes its own rows and heads, and the result is the same."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from slap_jax.models.attention import attention
from slap_jax.models.attention.dispatch import on_local_shards
from slap_jax.models.attention.flash import flash_attention
from slap_jax.models.attention.splash import splash_attention
from slap_jax.parallel.sharding import AXES
from tests.models.attention.oracle import check, inputs, segment_mask

pytestmark = pytest.mark.compile

LENGTH, WINDOW = 40, 5
KERNELS = {
    "splash": functools.partial(splash_attention, interpret=True),
    "flash": functools.partial(flash_attention, tiles=(16, 16), interpret=True),
}


def mesh_of(shape):
    return Mesh(np.array(jax.devices()).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)


def function_of(backend, segments):
    def function(q, k, v):
        if backend in KERNELS:
            return on_local_shards(KERNELS[backend], q, k, v, segments, segments, WINDOW, False)
        return attention(q, k, v, q_segment_ids=segments, window=WINDOW, backend=backend)

    return function


def rows_of(pack, rows):
    return pack([[3 + row, 20 - row, 10] for row in range(rows)], LENGTH)[0]


@pytest.mark.parametrize(
    "backend, shape",
    [
        ("dense", (8, 1, 1)),
        ("blocked", (2, 2, 2)),
        ("chunked", (8, 1, 1)),
        ("chunked", (2, 2, 2)),
        ("splash", (2, 2, 2)),
        ("flash", (8, 1, 1)),
    ],
)
def test_split_rows_and_heads_equal_the_oracle(pack, backend, shape):
    mesh, segments = mesh_of(shape), rows_of(pack, 8)
    spread = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    qkv = jax.device_put(inputs(8, LENGTH, LENGTH), spread)
    with jax.set_mesh(mesh):
        check(function_of(backend, segments), qkv, segment_mask(segments, segments, WINDOW))


@pytest.mark.parametrize("backend, rows, heads", [("chunked", 3, 3), ("flash", 2, 2), ("chunked", 1, 4)])
def test_rows_and_heads_that_axes_do_not_divide_stay_whole(pack, backend, rows, heads):
    segments = rows_of(pack, rows)
    with jax.set_mesh(mesh_of((2, 2, 2))):
        check(
            function_of(backend, segments),
            inputs(rows, LENGTH, LENGTH, heads=heads),
            segment_mask(segments, segments, WINDOW),
        )


@pytest.mark.parametrize("shape, local", [((8, 1, 1), (1, 4)), ((2, 2, 2), (2, 2)), ((1, 1, 8), (8, 4))])
def test_a_device_sees_its_own_rows_and_heads_only(pack, shape, local):
    seen = []

    def backend(q, k, v, q_segment_ids, kv_segment_ids, window, causal):
        seen.append((q.shape, k.shape, q_segment_ids.shape, kv_segment_ids.shape))
        return v

    segments = rows_of(pack, 8)
    with jax.set_mesh(mesh_of(shape)):
        jax.eval_shape(
            lambda q, k, v: on_local_shards(backend, q, k, v, segments, segments, None, False),
            *inputs(8, LENGTH, LENGTH, heads=4),
        )
    rows, heads = local
    assert seen == [((rows, LENGTH, heads, 8),) * 2 + ((rows, LENGTH),) * 2]
