"""How rows reach the devices: with their mesh in context, and as many as the platform wants."""

import jax
import numpy as np

from slap_jax.config import default_config
from slap_jax.inference.rows import ACCELERATOR_TOKENS, Rows
from slap_jax.parallel.mesh import create_mesh
from slap_jax.parallel.platform import compiling_for


def test_functions_are_traced_with_the_mesh_in_context():
    mesh = create_mesh(default_config().parallel)
    traced_in = []

    @jax.jit
    def function(rows):
        traced_in.append(jax.sharding.get_abstract_mesh().shape)
        return rows * 2.0

    def build(indices, rows, bucket):
        return (np.asarray([[index] for index in indices] + [[0]] * (rows - len(indices)), np.float32),)

    results = Rows(mesh).run(function, build, [1, 1, 1], 1, 1)
    assert [float(result[0]) for result in results] == [0.0, 2.0, 4.0]
    assert [dict(shape) for shape in traced_in] == [dict(mesh.shape)]
    assert jax.sharding.get_abstract_mesh().empty


def test_rows_of_a_program_follow_the_platform_it_is_compiled_for():
    assert Rows().count(128) == 1
    with compiling_for("tpu"):
        assert Rows().count(128) == ACCELERATOR_TOKENS // 128
