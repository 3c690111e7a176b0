"""SpecAugment on packed rows: spans within limits, drawn for each clip, padding untouched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.models.spec_augment import spec_augment

SLOTS = 4
LENGTHS = [[20, 1, 9], [5, 25]]


def masked(pack, settings, seed=0, lengths=LENGTHS):
    segments, columns = pack(lengths, 32)
    mel = jnp.ones((2, 32, 16, 64))
    out = spec_augment(jax.random.split(jax.random.key(seed), 2), mel, segments, columns, SLOTS, settings)
    return np.asarray(out) == 0.0, segments


def runs(covered: np.ndarray) -> list[int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], covered.astype(int), [0]])))
    return list(edges[1::2] - edges[::2])


@pytest.mark.parametrize("seed", range(5))
def test_spans_cover_whole_frames_and_bins_within_the_limits(tiny_config, pack, seed):
    settings = tiny_config.spec_augment
    hidden, segments = masked(pack, settings, seed)
    assert not hidden[segments == 0].any()
    for row, clips in enumerate(LENGTHS):
        for slot, length in enumerate(clips):
            clip = hidden[row][segments[row] == slot + 1].reshape(length * 16, 64)
            frames, bins = clip.all(axis=1), clip.all(axis=0)
            np.testing.assert_array_equal(clip, frames[:, None] | bins[None])
            # Two spans that touch look like one.
            assert sum(runs(frames)) <= 2 * int(length * 16 * settings.time_fraction)
            assert sum(runs(bins)) <= 2 * settings.frequency_bins
            assert max(len(runs(frames)), len(runs(bins))) <= 2


def test_masks_differ_between_clips_rows_and_keys_and_repeat_for_a_key(tiny_config, pack):
    lengths = [[16, 16], [16, 16]]
    first, segments = masked(pack, tiny_config.spec_augment, 0, lengths)
    again, _ = masked(pack, tiny_config.spec_augment, 0, lengths)
    other, _ = masked(pack, tiny_config.spec_augment, 1, lengths)
    np.testing.assert_array_equal(first, again)
    clips = [x[row][segments[row] == slot] for x in (first, other) for row in (0, 1) for slot in (1, 2)]
    assert all((a != b).any() for i, a in enumerate(clips) for b in clips[:i])


def test_mask_of_a_clip_does_not_depend_on_its_neighbours(tiny_config, pack):
    first, segments = masked(pack, tiny_config.spec_augment, 0, [[20, 1, 9], [5, 25]])
    moved, moved_segments = masked(pack, tiny_config.spec_augment, 0, [[3, 4, 9], [5, 2]])
    np.testing.assert_array_equal(first[0][segments[0] == 3], moved[0][moved_segments[0] == 3])


def test_no_masks_leave_the_input(tiny_config, pack):
    for nothing in ({"time_masks": 0, "frequency_masks": 0}, {"time_fraction": 0.0, "frequency_bins": 0}):
        settings = tiny_config.copy_and_resolve_references().spec_augment
        settings.update(nothing)
        assert not masked(pack, settings)[0].any()
