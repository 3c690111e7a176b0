"""Held-out losses equal the objectives of training on the same clips, and plain NumPy."""

import numpy as np
import pytest
import scipy.special
from ml_collections import ConfigDict

from slap_jax.evaluation.held_out_loss import ContrastiveLoss, classification_loss, tie_break
from slap_jax.evaluation.text_table import describe_results
from tests.tiny import tiny_config


def unit(seed: int, count: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def symmetric_cross_entropy(audio: np.ndarray, text: np.ndarray, scale: float) -> np.ndarray:
    """The loss of CLIP for each clip, without masks."""
    scores = scale * audio @ text.T
    own = np.diagonal(scores)
    return (scipy.special.logsumexp(scores, axis=1) + scipy.special.logsumexp(scores, axis=0) - 2 * own) / 2


@pytest.mark.compile
@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_the_contrastive_loss_equals_numpy(form):
    config = tiny_config()
    config.objectives.contrastive.form = form
    audio, text = unit(0, 9), unit(1, 9)
    params = {"objectives": {"contrastive": {"log_scale": np.float32(np.log(5.0)), "bias": np.float32(-2.0)}}}
    if form == "softmax":
        del params["objectives"]["contrastive"]["bias"]
    loss = ContrastiveLoss(config, clips_per_batch=64)(params, audio, text, [f"caption {i}" for i in range(9)])
    if form == "softmax":
        expected = symmetric_cross_entropy(audio, text, 5.0).mean()
    else:
        scores, sign = 5.0 * audio @ text.T - 2.0, 2 * np.eye(9) - 1
        expected = np.logaddexp(0, -sign * scores).sum() / 9
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.compile
def test_groups_have_the_size_of_a_batch_and_equal_captions_are_no_negatives():
    """A loss over 100 negatives cannot be compared with one of training over 10."""
    audio, text = unit(2, 25), unit(3, 25)
    params = {"objectives": {"contrastive": {"log_scale": np.float32(np.log(5.0))}}}
    loss = ContrastiveLoss(tiny_config(), clips_per_batch=10)
    in_groups = loss(params, audio, text, [f"caption {i}" for i in range(25)])
    order = np.random.default_rng(0).permutation(25)
    parts = [symmetric_cross_entropy(audio[group], text[group], 5.0) for group in np.array_split(order, 2)]
    assert in_groups == pytest.approx(np.concatenate(parts).mean(), rel=1e-5)
    assert loss(params, audio, text, ["A sound", "a sound "] + ["a sound"] * 23) == 0.0


def settings(**values) -> ConfigDict:
    return ConfigDict({"multi_label": False, "class_weights": (), **values})


def test_the_classification_loss_is_the_weighted_cross_entropy_of_known_classes():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]], np.float32)
    truth = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], bool)  # the last clip's class is unknown to the model
    assert classification_loss(probabilities, truth, settings()) == pytest.approx(-np.log([0.7, 0.1]).mean(), rel=1e-6)
    weighted = classification_loss(probabilities, truth, settings(class_weights=(3.0, 1.0, 1.0)))
    assert weighted == pytest.approx(-(3 * np.log(0.7) + np.log(0.1)) / 4, rel=1e-6)
    assert classification_loss(probabilities[2:], truth[2:], settings()) is None
    several = classification_loss(probabilities, truth, settings(multi_label=True, class_weights=(2.0, 1.0, 1.0)))
    weights = np.where(truth, [2.0, 1.0, 1.0], 1.0)
    expected = -(weights * np.log(np.where(truth, probabilities, 1 - probabilities))).mean()
    assert several == pytest.approx(expected, rel=1e-5)
    certain = np.array([[1.0, 0.0]], np.float32)  # fp32 rounds to both ends
    for multi_label in (True, False):
        loss = classification_loss(certain, np.array([[False, True]]), settings(multi_label=multi_label))
        assert loss is not None and np.isfinite(loss) and loss > 10


def test_the_loss_that_breaks_ties_is_that_of_the_same_set():
    assert tie_break("classification/val/accuracy") == "held_out_loss/val/weighted_sum"
    assert tie_break("retrieval/my/set/t2a_r1") == "held_out_loss/my/set/weighted_sum"


def test_the_line_of_an_evaluation_shows_chance():
    retrieval = {"t2a_r1": 0.05, "a2t_r1": 0.1, "chance_r1": 0.03, "a2t_chance_r1": 0.04}
    results = {
        "retrieval": {"clips": retrieval},
        "zero_shot": {"scenes": {"accuracy": 0.5, "chance": 0.125}},
        "classification": {"val": {"map": 0.6}},
        "caption_loss": {"val": {"nats_per_token": 2.5}},
        "held_out_loss": {"clips": {"contrastive": 1.5, "weighted_sum": 1.5}},
    }
    assert describe_results(results) == (
        "clips t2a R@1 0.050 (chance 0.030), a2t R@1 0.100 (chance 0.040); "
        "scenes zero-shot accuracy 0.500 (chance 0.125); val mAP 0.600; val captions 2.5000 nats per token; "
        "clips held-out loss 1.5000"
    )
    many = describe_results({"retrieval": {f"set{n}": retrieval for n in range(9)}})
    assert many.count("R@1") == 12 and many.endswith("; 3 more in metrics.jsonl")
