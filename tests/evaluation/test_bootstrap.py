"""The interval covers the truth, grows with clustering, and is reproducible."""

import numpy as np
import pytest

from slap_jax.evaluation.bootstrap import cluster_interval, cluster_median_interval


def test_seeded():
    values = np.random.default_rng(0).random((50, 2))
    first = cluster_interval(values, np.arange(50), seed=3)
    again = cluster_interval(values, np.arange(50), seed=3)
    other = cluster_interval(values, np.arange(50), seed=4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_width_is_that_of_the_normal_approximation():
    values = (np.random.default_rng(0).random((400, 1)) < 0.3).astype(float)
    low, high = cluster_interval(values, np.arange(400), resamples=4_000)
    mean = values.mean()
    expected = 2 * 1.96 * np.sqrt(mean * (1 - mean) / 400)
    assert low[0] < mean < high[0]
    assert abs((high - low)[0] / expected - 1) < 0.1


def test_covers_the_truth_95_times_of_100():
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        values = generator.normal(size=(60, 1))
        low, high = cluster_interval(values, np.arange(60), seed=trial, resamples=300)
        covered += bool(low[0] <= 0.0 <= high[0])
    assert 0.90 <= covered / 300 <= 0.98


def test_repeated_queries_of_a_clip_do_not_narrow_it():
    values = (np.random.default_rng(0).random((100, 1)) < 0.5).astype(float)
    low, high = cluster_interval(values, np.arange(100))
    low5, high5 = cluster_interval(np.repeat(values, 5, axis=0), np.repeat(np.arange(100), 5))
    low_wrong, high_wrong = cluster_interval(np.repeat(values, 5, axis=0), np.arange(500))
    assert np.allclose([low, high], [low5, high5])
    assert (high_wrong - low_wrong)[0] < 0.6 * (high - low)[0]


def test_unequal_clusters_weigh_by_their_queries():
    values = np.array([[1.0], [0.0], [0.0], [0.0]])
    low, high = cluster_interval(values, np.array([7, 2, 2, 2]))
    assert (low[0], high[0]) == (0.0, 1.0)


def test_blocks_cover_all_resamples():
    values = np.random.default_rng(0).random((3_000_000, 1))
    low, high = cluster_interval(values, np.arange(3_000_000), resamples=5)
    assert 0.499 < low[0] < high[0] < 0.501


@pytest.mark.parametrize("clips", [20, 21])
def test_medians_are_those_of_the_drawn_clips(clips):
    """Against drawing clip by clip and joining their queries, with the same seed."""
    generator = np.random.default_rng(2)
    clusters = np.sort(generator.integers(clips, size=70))
    clusters[:clips] = np.arange(clips)
    ranks = generator.integers(1, 40, size=70)
    draws = np.random.default_rng(5).integers(clips, size=(200, clips))
    medians = [np.median(np.concatenate([ranks[clusters == clip] for clip in drawn])) for drawn in draws]
    expected = np.quantile(medians, [0.025, 0.975])
    assert cluster_median_interval(ranks, clusters, seed=5, resamples=200) == pytest.approx(tuple(expected))
    assert expected[0] < expected[1]


def test_no_query_is_an_error():
    with pytest.raises(ValueError, match="no query to resample"):
        cluster_interval(np.zeros((0, 1)), np.zeros(0, int))
    with pytest.raises(ValueError, match="no query to resample"):
        cluster_median_interval(np.zeros(0), np.zeros(0, int))
