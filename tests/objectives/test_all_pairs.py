"""Every pair is met exactly once, for any number of devices and any block, also where they do not divide the clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.objectives.all_pairs import reduce_over_pairs, ring_axes
from slap_jax.parallel.sharding import batch_sharding


def sums_of_pairs(audio, text, block):
    """Sums small positive integers, so that the sums are exact and padding (0) is recognised."""

    def tile(audio, text):
        pairs = jnp.where((audio[:, None] > 0) & (text[:, 0] > 0), audio[:, None] + text[:, 0] ** 2, 0.0)
        return {"audio": jnp.sum(pairs, axis=1)}, (jnp.sum(pairs, axis=0), jnp.sum(pairs, axis=0)[:, None])

    return jax.jit(lambda audio, text: reduce_over_pairs(tile, audio, text, block))(audio, text)


@pytest.mark.parametrize(
    ("clips", "block", "sizes"),
    [
        (24, 24, (1, 1, 1)),
        (20, 7, (1, 1, 1)),
        (24, 2, (8, 1, 1)),
        (24, 2, (2, 2, 2)),
        (20, 2, (2, 2, 2)),
        (24, 1, (1, 1, 8)),
    ],
)
def test_every_pair_is_met_once_and_results_return_home(mesh_of, clips, block, sizes):
    audio, text = np.arange(1.0, clips + 1), np.arange(1.0, 2 * clips + 1).reshape(clips, 2)
    pairs = audio[:, None] + text[:, 0] ** 2
    mesh = mesh_of(*sizes)
    audio, text = (jax.device_put(x, batch_sharding(mesh)) for x in (audio, text))
    with jax.set_mesh(mesh):
        audio_sums, (text_sums, column) = sums_of_pairs(audio, text, block)
    np.testing.assert_array_equal(audio_sums["audio"], pairs.sum(axis=1))
    np.testing.assert_array_equal(text_sums, pairs.sum(axis=0))
    np.testing.assert_array_equal(column, text_sums[:, None])


def test_merge_need_not_be_a_sum():
    audio, text = jnp.asarray([3.0, 1.0, 2.0]), jnp.asarray([1.0, 5.0, 2.0])

    def tile(audio, text):
        pairs = jnp.where(text > 0, audio[:, None] - text, -jnp.inf)
        return jnp.max(pairs, axis=1), jnp.max(pairs, axis=0)

    audio_max, text_max = reduce_over_pairs(tile, audio, text, 2, merge=jnp.maximum, identity=-jnp.inf)
    np.testing.assert_array_equal(audio_max, [2.0, 0.0, 1.0])
    np.testing.assert_array_equal(text_max, [2.0, -2.0, 1.0])


def test_the_clips_are_split_over_tensor_if_it_divides_them(mesh_of):
    with jax.set_mesh(mesh_of(2, 2, 2)):
        assert ring_axes(24) == ("data", "fsdp", "tensor")
        assert ring_axes(20) == ("data", "fsdp")
    assert ring_axes(7) == ("data", "fsdp", "tensor")  # without a mesh every axis has size 1
