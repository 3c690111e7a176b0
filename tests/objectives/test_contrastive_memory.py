"""What the compiled losses hold on each of 8 devices: no matrix of all scores, no copy of all clips; less on more."""

import itertools
import math
import re

import jax
import pytest
from ml_collections import ConfigDict

from benchmarks.contrastive_memory import compiled_gradient, dense, temporary_bytes, tiled
from slap_jax.batch import batch_shapes
from slap_jax.objectives.contrastive import clip_keys
from slap_jax.parallel.sharding import batch_sharding, create_mesh

FORMS = ["softmax", "sigmoid"]
EMBED_DIM, BLOCK = 16, 32
COLLECTIVE = r"(all-gather|all-to-all|reduce-scatter|collective-permute|all-reduce)(?:-start)?\("


def largest_array(program: str) -> int:
    """Elements of the largest array that a compiled program names."""
    return max((math.prod(map(int, shape.split(","))) for shape in re.findall(r"\w\[(\d[\d,]*)\]", program)), default=1)


@pytest.mark.parametrize("form", FORMS)
def test_no_array_is_larger_than_a_tile_or_the_clips_of_the_device(form):
    clips, devices = 1_024, jax.devices()
    program = compiled_gradient(tiled(form, BLOCK), clips, EMBED_DIM, devices).as_text()
    assert largest_array(program) == max(BLOCK**2, clips // len(devices) * EMBED_DIM)
    assert set(re.findall(COLLECTIVE, program)) == {"collective-permute", "all-reduce"}
    sums = re.findall(r"= (.*?) all-reduce(?:-start)?\(", program)
    assert sums and all(largest_array(shape) == 1 for shape in sums)
    # The same search finds what the dense loss holds.
    program = compiled_gradient(dense(form), clips, EMBED_DIM, devices).as_text()
    assert largest_array(program) >= clips**2 // len(devices)


@pytest.mark.parametrize("form", FORMS)
def test_temporaries_are_those_of_the_clips_of_the_device(form):
    def temporaries(clips: int, count: int) -> int:
        return temporary_bytes(tiled(form, BLOCK), clips, EMBED_DIM, jax.devices()[:count])

    by_devices = [temporaries(1_024, count) for count in (1, 2, 4, 8)]
    for fewer, more in itertools.pairwise(by_devices):
        assert more < 0.75 * fewer  # half of what grows with the clips, and the same tile
    # A larger batch on as many more devices takes the same: nothing grows with the batch itself.
    assert [temporaries(2_048, 8), temporaries(4_096, 8)] == by_devices[2:0:-1]
    # A straight line: twice as many clips add twice as much, where scores of all of them would add four times.
    of_128, of_256, of_512 = by_devices[:0:-1]
    assert of_512 - of_256 < 2.5 * (of_256 - of_128)


def test_keys_of_clips_are_computed_where_their_rows_lie():
    mesh = create_mesh(ConfigDict({"data": 2, "fsdp": 2, "tensor": 2}))
    rows = batch_sharding(mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), batch_shapes(8, 16, 4, 32, 2_560)
    )
    program = jax.jit(clip_keys, out_shardings=rows).lower(batch).compile().as_text() or ""
    assert not re.findall(COLLECTIVE, program)
    assert 1 < largest_array(program) < 8 * 32  # the tokens of all rows
