"""Average precision and area under the ROC curve equal scikit-learn's; bootstrap intervals cover the truth."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from slap_jax.evaluation.intervals import (
    areas_under_roc,
    average_precisions,
    cluster_interval,
    cluster_median_interval,
    resampled_mean,
)
from slap_jax.evaluation.zero_shot import mean_average_precision
from slap_jax.inference.prompts import ZeroShotError

PAIRS = [(average_precisions, average_precision_score), (areas_under_roc, roc_auc_score)]


def random_scores(seed, items=60, classes=4):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 12, (items, classes)) / 4  # many ties
    return scores, generator.random((items, classes)) < 0.3


@pytest.mark.parametrize(("ours", "sklearns"), PAIRS)
@pytest.mark.parametrize("seed", range(5))
def test_equals_sklearn_with_ties_and_weights(ours, sklearns, seed):
    scores, truth = random_scores(seed)
    times = np.random.default_rng(seed).integers(0, 4, (3, len(scores))).astype(float)
    for y in range(scores.shape[1]):
        result = ours(scores[:, y], truth[:, y], np.concatenate([np.ones((1, len(scores))), times]))
        expected = [sklearns(truth[:, y], scores[:, y], sample_weight=weights) for weights in [None, *times]]
        assert result == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("ours", [average_precisions, areas_under_roc])
def test_nan_ranks_last(ours):
    truth, ones = np.array([True, False, False]), np.ones((1, 3))
    assert ours(np.array([0.5, np.nan, 0.1]), truth, ones) == [1.0]
    assert ours(np.array([np.nan, 0.2, 0.1]), truth, ones) == ours(np.array([-9.0, 0.2, 0.1]), truth, ones)


def test_a_constant_score_equals_chance():
    truth = np.array([[True], [False], [False], [False]])
    result = mean_average_precision(np.zeros((4, 1)), truth, resamples=50)
    assert result["map"] == result["chance"] == 0.25
    assert areas_under_roc(np.zeros(4), truth[:, 0], np.ones((1, 4))) == [0.5]


def test_macro_map_equals_sklearn_and_leaves_out_classes_without_clips():
    scores, truth = random_scores(7, classes=6)
    truth[:, 2] = False
    result = mean_average_precision(scores, truth, resamples=100)
    kept = truth.any(axis=0)
    expected = average_precision_score(truth[:, kept], scores[:, kept], average="macro")
    assert result["map"] == pytest.approx(expected, abs=1e-9)
    assert (result["n"], result["n_classes"], result["n_classes_scored"]) == (60, 6, 5)
    low, high = result["interval"]
    assert low < result["map"] < high
    with pytest.raises(ZeroShotError, match="none has a class"):
        mean_average_precision(scores, np.zeros_like(truth))


def test_clusters_are_drawn_whole():
    """Items that repeat their clip add no information, so the interval stays as wide."""
    scores, truth = random_scores(3, items=40, classes=2)
    settings = {"seed": 1, "resamples": 200}
    alone = resampled_mean(areas_under_roc, scores, truth, np.arange(40), **settings)
    four = [np.repeat(array, 4, axis=0) for array in (scores, truth, np.arange(40))]
    together = resampled_mean(areas_under_roc, *four, **settings)
    apart = resampled_mean(areas_under_roc, four[0], four[1], np.arange(160), **settings)
    assert together == pytest.approx(alone)
    assert apart[2] - apart[1] < 0.7 * (alone[2] - alone[1])


def test_intervals_are_seeded():
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


def test_intervals_cover_the_truth_95_times_of_100():
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


def test_unequal_clusters_are_weighted_by_their_queries():
    values = np.array([[1.0], [0.0], [0.0], [0.0]])
    low, high = cluster_interval(values, np.array([7, 2, 2, 2]))
    assert (low[0], high[0]) == (0.0, 1.0)


def test_the_block_size_does_not_matter(monkeypatch):
    values = np.random.default_rng(0).random((300, 1))
    expected = cluster_interval(values, np.arange(300), resamples=50)
    monkeypatch.setattr("slap_jax.evaluation.intervals._MOST_DRAWN", 2_000)  # 6 resamples a block
    assert np.array_equal(cluster_interval(values, np.arange(300), resamples=50), expected)


@pytest.mark.parametrize("clips", [20, 21])
def test_medians_are_those_of_the_drawn_clips(clips):
    """Compares with drawing clip by clip and joining their queries, with the same seed."""
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
