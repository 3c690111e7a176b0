"""Per-class scores, confusions and mistakes equal scikit-learn's, and agree with the accuracy that they explain."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, precision_score, recall_score

from slap_jax.evaluation.class_details import MOST_MISTAKES, multi_label_details, single_label_details
from slap_jax.evaluation.zero_shot import mean_average_precision, zero_shot

CLASSES = ("bell", "dog", "horn", "rain")


def clips(count: int) -> list[tuple[int, str]]:
    return [(2 * row, f"clip-{row}") for row in range(count)]


@pytest.fixture
def case():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 300)  # no clip of the last class
    scores = generator.normal(size=(300, 4))
    scores[np.arange(300), truth] += 1.0
    return scores, truth


def test_classes_and_confusions_equal_scikit_learn(case):
    scores, truth = case
    details = single_label_details(scores, truth, CLASSES, clips(300))
    predicted = scores.argmax(axis=1)
    matrix = confusion_matrix(truth, predicted, labels=range(4))
    for row, name in enumerate(CLASSES):
        for column, other in enumerate(CLASSES):
            assert details["confusion"].get(name, {}).get(other, 0) == matrix[row, column]
    for index, name in enumerate(CLASSES[:3]):
        one = details["per_class"][name]
        assert one["n"] == np.sum(truth == index)
        assert one["accuracy"] == pytest.approx(recall_score(truth == index, predicted == index))
        assert one["precision"] == pytest.approx(precision_score(truth == index, predicted == index))
    assert details["per_class"]["rain"] == {"n": 0, "accuracy": None, "precision": 0.0}
    assert "rain" not in details["confusion"]


def test_mistakes_are_sampled_and_name_their_clip(case):
    scores, truth = case
    details = single_label_details(scores, truth, CLASSES, clips(300))
    wrong = np.flatnonzero(scores.argmax(axis=1) != truth)
    assert details["n_mistakes"] == len(wrong) > MOST_MISTAKES == len(details["mistakes"])
    rows = [mistake["clip"] // 2 for mistake in details["mistakes"]]
    assert len(set(rows)) == len(rows) and set(rows) <= set(wrong) and rows != sorted(rows)
    for row, mistake in zip(rows, details["mistakes"], strict=True):
        assert mistake["id"] == f"clip-{row}" and mistake["true"] == CLASSES[truth[row]]
        assert mistake["predicted"] == CLASSES[scores[row].argmax()] and mistake["score"] == scores[row].max()


@pytest.mark.parametrize("value", [0.5, np.nan, -np.inf])
def test_constant_scores_are_wrong_everywhere(value):
    truth = np.array([0, 1, 2, 3, 3])
    details = single_label_details(np.full((5, 4), value), truth, CLASSES, clips(5))
    assert details["n_mistakes"] == 5
    assert all(one["accuracy"] == 0.0 for one in details["per_class"].values())
    assert all(mistake["true"] != mistake["predicted"] for mistake in details["mistakes"])


def test_the_details_add_up_to_the_accuracy():
    generator = np.random.default_rng(1)
    audio, classes = generator.normal(size=(50, 8)), generator.normal(size=(4, 8))
    audio[::7] = 0.0  # ties
    truth = generator.integers(0, 4, 50)
    details = single_label_details(audio @ classes.T, truth, CLASSES, clips(50))
    right = sum(row.get(name, 0) for name, row in details["confusion"].items())
    assert right / 50 == zero_shot(audio, classes, truth, resamples=5)["accuracy"]
    assert details["n_mistakes"] == 50 - right


def test_a_class_that_the_model_does_not_know_is_a_row_of_its_own():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    details = single_label_details(scores, np.array([0, -1, 1]), ("a", "b"), clips(3), {1: "siren"})
    assert details["confusion"] == {"a": {"a": 1}, "b": {"b": 1}, "siren": {"a": 1}}
    assert details["per_class"]["siren"] == {"n": 1, "accuracy": 0.0, "precision": None}
    assert [mistake["true"] for mistake in details["mistakes"]] == ["siren"]


def test_average_precisions_of_the_classes_equal_scikit_learn():
    generator = np.random.default_rng(2)
    truth = generator.random((80, 4)) < 0.3
    truth[:, 3] = False
    scores = generator.normal(size=(80, 4)) + truth
    details = multi_label_details(scores, truth, CLASSES, clips(80))
    values = [details["per_class"][name]["average_precision"] for name in CLASSES]
    assert values[:3] == pytest.approx([average_precision_score(truth[:, y], scores[:, y]) for y in range(3)])
    assert values[3] is None
    assert np.mean(values[:3]) == pytest.approx(mean_average_precision(scores, truth, resamples=2)["map"])
    best = scores.argmax(axis=1)
    assert details["n_mistakes"] == sum(row.any() and not row[guess] for row, guess in zip(truth, best, strict=True))
    for mistake in details["mistakes"]:
        assert mistake["predicted"] not in mistake["true"].split(", ") and mistake["true"]
