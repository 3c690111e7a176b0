"""Bytes by kind, and what a refusal of the compiler says."""

import jax
import pytest

from slap_jax.aot.memory import argument_bytes, compiled_memory, out_of_memory
from slap_jax.compile_step import step_program
from slap_jax.parallel.mesh import create_mesh
from tests.tiny import tiny_config

GIB = 2**30


def test_every_kind_on_one_device_and_in_pieces():
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
def test_refusals_are_read(text, temporaries, capacity):
    memory = out_of_memory(RuntimeError(text))
    assert memory is not None
    assert memory.temporaries == (None if temporaries is None else round(temporaries * GIB))
    assert memory.capacity == (None if capacity is None else round(capacity * GIB))
    assert memory.message == text.splitlines()[0]


def test_other_errors_are_not():
    assert out_of_memory(RuntimeError("INTERNAL: the compiler has a bug")) is None
