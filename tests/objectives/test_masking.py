"""The patch mask: exact counts per clip, uniform, never on padding, and gathered into static shapes."""

import jax
import jax.numpy as jnp
import numpy as np

from slap_jax.objectives.masking import masked_positions, random_mask, segment_counts

SEGMENTS = jnp.array([[1] * 8 + [2] * 4 + [3] * 12 + [0] * 8, [1] * 5 + [2] * 20 + [3] * 7])


def test_masks_the_rounded_share_of_every_clip_and_no_padding():
    for seed in range(5):
        mask = random_mask(jax.random.key(seed), SEGMENTS, 3, 0.5)
        counts = segment_counts(jnp.where(mask, SEGMENTS, 0), 3)[:, 1:]
        np.testing.assert_array_equal(counts, [[4, 2, 6], [2, 10, 4]])  # round half to even: 2.5 -> 2, 3.5 -> 4
        assert not np.any(mask & (SEGMENTS == 0))


def test_every_patch_is_masked_about_equally_often():
    keys = jax.random.split(jax.random.key(0), 400)
    share = jnp.mean(jax.vmap(lambda key: random_mask(key, SEGMENTS, 3, 0.5))(keys), axis=0)
    np.testing.assert_allclose(share[0, :24], 0.5, atol=0.12)


def test_gathers_exactly_the_masked_positions():
    mask = random_mask(jax.random.key(1), SEGMENTS, 3, 0.5)
    positions, valid = masked_positions(mask, 3, 0.5)
    for row in range(2):
        np.testing.assert_array_equal(np.sort(positions[row][valid[row]]), np.flatnonzero(mask[row]))
    assert positions.shape[1] == 18  # 0.5 * 32 + 0.5 * 3 rounded down, and one
