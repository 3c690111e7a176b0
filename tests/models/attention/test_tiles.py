"""Kernels visit all tiles with an allowed pair, and for packed rows no others."""

import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.models.attention.tiles import PADDED_KEY, PADDED_QUERY, PositionMask, overlapping_tiles, tile_spans
from tests.models.attention.oracle import segment_mask

pytestmark = pytest.mark.compile

Q_TILE, KV_TILE, LENGTH = 8, 4, 64
MASKS = [
    PositionMask(None, False),
    PositionMask(None, True),
    PositionMask(5, False),
    PositionMask(5, True),
    PositionMask(0, False),
]


def visited(q_segment_ids, kv_segment_ids, kind):
    return np.asarray(overlapping_tiles(jnp.asarray(q_segment_ids), jnp.asarray(kv_segment_ids), Q_TILE, KV_TILE, kind))


def needed(q_segment_ids, kv_segment_ids, kind):
    """Returns the tiles with an allowed pair, by testing every pair."""
    mask = segment_mask(q_segment_ids, kv_segment_ids, kind.window, kind.causal)
    rows, queries, keys = mask.shape
    return mask.reshape(rows, queries // Q_TILE, Q_TILE, keys // KV_TILE, KV_TILE).any((2, 4))


@pytest.mark.parametrize("kind", MASKS)
def test_packed_rows_visit_exactly_the_tiles_that_hold_allowed_pairs(pack, kind):
    segments, _ = pack([[3, 17, 9, 20], [64], [8, 8, 30], []], LENGTH)
    tiles = visited(segments, segments, kind)
    target = needed(segments, segments, kind)
    if kind.window is None:
        np.testing.assert_array_equal(tiles, target)
    else:  # a tile may hold a pair that is near and another pair of one clip
        assert not np.any(target & ~tiles)
        assert tiles.sum() <= target.sum() * 1.2


@pytest.mark.parametrize("kind", MASKS)
def test_no_tile_with_an_allowed_pair_is_left_out_in_any_order(kind):
    segments = np.random.default_rng(0).integers(0, 3, (4, LENGTH)).astype(np.int32)
    tiles = visited(segments, segments, kind)
    assert not np.any(needed(segments, segments, kind) & ~tiles)


def test_padding_of_the_last_tile_is_not_visited(pack):
    segments, _ = pack([[10, 30], [48]], 48)
    q_segment_ids = np.pad(segments, ((0, 0), (0, 16)), constant_values=PADDED_QUERY)
    kv_segment_ids = np.pad(segments, ((0, 0), (0, 16)), constant_values=PADDED_KEY)
    tiles = visited(q_segment_ids, kv_segment_ids, MASKS[0])
    assert not tiles[:, 6:].any() and not tiles[:, :, 12:].any()
    np.testing.assert_array_equal(tiles[:, :6, :12], needed(segments, segments, MASKS[0]))


def test_spans_cover_the_true_tiles_and_is_empty_without_any():
    tiles = jnp.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]], bool)
    first, last = tile_spans(tiles)
    assert first.tolist() == [1, 0, 0, 3]
    assert last.tolist() == [3, 0, 4, 4]
