"""Zero-shot accuracy against scikit-learn (stored) and the template rules."""

import json
import pathlib

import numpy as np
import pytest

from slap_jax.evaluation.zero_shot import zero_shot
from slap_jax.inference.prompts import (
    DEFAULT_TEMPLATE,
    TEMPLATES,
    ZeroShotError,
    class_embeddings,
    class_prompts,
    template_prompts,
)

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "retrieval.json").read_text())


def test_accuracy_equals_sklearn():
    case = GOLDEN["classification"]
    results = zero_shot(np.array(case["audio"]), np.array(case["classes"]), np.array(case["truth"]))
    assert results["accuracy"] == pytest.approx(case["accuracy"], abs=1e-12)
    assert results["n"] == 80 and results["n_classes"] == 7 and results["chance"] == pytest.approx(1 / 7)
    assert results["majority"] == np.bincount(case["truth"]).max() / 80
    assert results["interval"][0] < results["accuracy"] < results["interval"][1]


def test_stored_scores_equal_sklearn():
    from sklearn import metrics

    case = GOLDEN["classification"]
    predicted = np.argmax(np.array(case["audio"]) @ np.array(case["classes"]).T, axis=1)
    assert metrics.accuracy_score(case["truth"], predicted) == pytest.approx(case["accuracy"])


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_a_constant_model_scores_zero(value):
    results = zero_shot(np.full((9, 4), value), np.full((3, 4), value), np.zeros(9, int))
    assert results["accuracy"] == 0.0 and results["majority"] == 1.0


def test_clips_without_a_class_are_left_out():
    results = zero_shot(np.eye(2)[[0, 0, 1, 1]], np.eye(2), np.array([0, -1, 1, 0]))
    assert results["n"] == 3 and results["accuracy"] == pytest.approx(2 / 3)


def test_prompts():
    assert DEFAULT_TEMPLATE in TEMPLATES and all("{}" in prompt for prompts in TEMPLATES.values() for prompt in prompts)
    assert class_prompts(["sea_waves", "dog"], "plain") == ["sea waves", "dog"]
    assert class_prompts(["dog"], "hear a {} bark") == ["hear a dog bark"]
    assert len(class_prompts(["a", "b"])) == 2 * len(TEMPLATES[DEFAULT_TEMPLATE])
    with pytest.raises(ZeroShotError, match="'nope' is not known; name one of ensemble"):
        template_prompts("nope")


def test_class_embedding_is_the_renormalised_mean():
    prompts = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.0]])
    expected = np.array([[np.sqrt(0.5), np.sqrt(0.5)], [-1.0, 0.0]])
    assert np.allclose(class_embeddings(prompts, 2), expected)
