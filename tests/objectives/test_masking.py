"""The patch mask: exact counts per clip, uniform, never on padding, and gathered into static shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.objectives.base import random_mask, segment_counts
from slap_jax.objectives.distillation import gather_positions, masked_positions

SEGMENTS = jnp.array([[1] * 8 + [2] * 4 + [3] * 12 + [0] * 8, [1] * 5 + [2] * 20 + [3] * 7])


def row_keys(seed: int) -> jax.Array:
    return jax.random.split(jax.random.key(seed), 2)


def test_masks_the_rounded_share_of_every_clip_and_no_padding():
    for seed in range(5):
        mask = random_mask(row_keys(seed), SEGMENTS, 3, 0.5)
        counts = segment_counts(jnp.where(mask, SEGMENTS, 0), 3)[:, 1:]
        np.testing.assert_array_equal(counts, [[4, 2, 6], [2, 10, 4]])  # round half to even: 2.5 -> 2, 3.5 -> 4
        assert not np.any(mask & (SEGMENTS == 0))


def test_every_patch_is_masked_about_equally_often():
    keys = jax.random.split(jax.random.key(0), (400, 2))
    share = jnp.mean(jax.vmap(lambda keys: random_mask(keys, SEGMENTS, 3, 0.5))(keys), axis=0)
    np.testing.assert_allclose(share[0, :24], 0.5, atol=0.12)


def test_gathers_exactly_the_masked_positions():
    mask = random_mask(row_keys(1), SEGMENTS, 3, 0.5)
    positions, valid = masked_positions(mask, 3, 0.5)
    for row in range(2):
        np.testing.assert_array_equal(np.sort(positions[row][valid[row]]), np.flatnonzero(mask[row]))
    assert positions.shape[1] == 18  # 0.5 * 32 + 0.5 * 3 rounded down, and one


def test_mask_of_a_row_does_not_depend_on_the_rows_beside_it():
    keys = row_keys(2)
    both = random_mask(keys, SEGMENTS, 3, 0.5)
    np.testing.assert_array_equal(both[1:], random_mask(keys[1:], SEGMENTS[1:], 3, 0.5))
    assert np.any(np.asarray(both[0]) != np.asarray(random_mask(keys[1:], SEGMENTS[:1], 3, 0.5)[0]))


@pytest.mark.parametrize("ratio", [0.02, 0.5, 0.97])
def test_masked_are_the_patches_of_the_smallest_noise_of_each_clip(ratio):
    keys = row_keys(3)
    mask = np.asarray(random_mask(keys, SEGMENTS, 3, ratio))
    for row, key in enumerate(keys):
        noise = np.asarray(jax.random.uniform(key, SEGMENTS.shape[1:]))
        for slot in (1, 2, 3):
            patches = np.flatnonzero(SEGMENTS[row] == slot)
            smallest = patches[np.argsort(noise[patches])][: round(ratio * len(patches))]
            np.testing.assert_array_equal(patches[mask[row, patches]], np.sort(smallest))


def test_gathered_tokens_pass_their_gradient_back_to_their_places():
    tokens = jax.random.normal(jax.random.key(0), (2, 5, 3))
    positions = jnp.array([[3, 0, 4], [1, 2, 0]])
    expected, pull = jax.vjp(lambda x: jnp.take_along_axis(x, positions[..., None], axis=1), tokens)
    found, our_pull = jax.vjp(lambda x: gather_positions(x, positions), tokens)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(our_pull(found)[0], pull(expected)[0])
