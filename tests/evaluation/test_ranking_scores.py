"""Average precision and area under the ROC curve against scikit-learn, with ties and with weights."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from slap_jax.evaluation.ranking_scores import areas_under_roc, average_precisions, resampled_mean
from slap_jax.evaluation.zero_shot import ZeroShotError, mean_average_precision

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
        found = ours(scores[:, y], truth[:, y], np.concatenate([np.ones((1, len(scores))), times]))
        expected = [sklearns(truth[:, y], scores[:, y], sample_weight=weights) for weights in [None, *times]]
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("ours", [average_precisions, areas_under_roc])
def test_a_number_that_is_none_ranks_last(ours):
    truth, ones = np.array([True, False, False]), np.ones((1, 3))
    assert ours(np.array([0.5, np.nan, 0.1]), truth, ones) == [1.0]
    assert ours(np.array([np.nan, 0.2, 0.1]), truth, ones) == ours(np.array([-9.0, 0.2, 0.1]), truth, ones)


def test_a_constant_score_earns_what_chance_does():
    truth = np.array([[True], [False], [False], [False]])
    found = mean_average_precision(np.zeros((4, 1)), truth, resamples=50)
    assert found["map"] == found["chance"] == 0.25
    assert areas_under_roc(np.zeros(4), truth[:, 0], np.ones((1, 4))) == [0.5]


def test_macro_map_equals_sklearn_and_leaves_out_classes_without_clips():
    scores, truth = random_scores(7, classes=6)
    truth[:, 2] = False
    found = mean_average_precision(scores, truth, resamples=100)
    kept = truth.any(axis=0)
    expected = average_precision_score(truth[:, kept], scores[:, kept], average="macro")
    assert found["map"] == pytest.approx(expected, abs=1e-9)
    assert (found["n"], found["n_classes"], found["n_classes_scored"]) == (60, 6, 5)
    low, high = found["interval"]
    assert low < found["map"] < high
    with pytest.raises(ZeroShotError, match="none has a class"):
        mean_average_precision(scores, np.zeros_like(truth))


def test_clusters_are_drawn_whole():
    """Items that repeat their clip tell no more than the clip: the interval stays as wide."""
    scores, truth = random_scores(3, items=40, classes=2)
    settings = {"seed": 1, "resamples": 200}
    alone = resampled_mean(areas_under_roc, scores, truth, np.arange(40), **settings)
    four = [np.repeat(array, 4, axis=0) for array in (scores, truth, np.arange(40))]
    together = resampled_mean(areas_under_roc, *four, **settings)
    apart = resampled_mean(areas_under_roc, four[0], four[1], np.arange(160), **settings)
    assert together == pytest.approx(alone)
    assert apart[2] - apart[1] < 0.7 * (alone[2] - alone[1])
