"""Probes: scores equal scikit-learn, folds never see their test clips, and missing parts give one clear message."""

import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from slap_jax.data.evaluation_set import EvaluationClip
from slap_jax.evaluation.clip_set import label_folds, read_clip_set
from slap_jax.evaluation.evaluate import evaluate
from slap_jax.evaluation.probe import ProbeError, probe
from slap_jax.evaluation.task import Probe, probe_task
from tests.evaluation.hashing_embedder import HashingEmbedder

CLASSES = ("bell", "dog", "rain")


class PlacedEmbedder(HashingEmbedder):
    """Gives clip n the n-th row of a table; its frames are the row, once or twice more or less."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def audio(self, params, waveforms):
        return self.table[[waveform[0] for waveform in waveforms]]

    def frames(self, params, waveforms):
        return [np.stack([0.5 * self.table[w[0]], 1.5 * self.table[w[0]]]) for w in waveforms]


def table_of(seed, clips, noise=1.0):
    generator = np.random.default_rng(seed)
    truth = generator.integers(len(CLASSES), size=clips)
    centres = generator.normal(size=(len(CLASSES), 6))
    return (centres[truth] + noise * generator.normal(size=(clips, 6))).astype(np.float32), truth


def task_of(tokenizer, labels, parts=(), test_part="", folds=None, **settings):
    clips = [EvaluationClip(f"{n}", np.array([n], np.int16), (), tuple(some), n) for n, some in enumerate(labels)]
    data = read_clip_set("tiny", clips, tokenizer, 24)
    return probe_task(data, "label", label_folds(data, *folds) if folds else parts, test_part, **settings)


def probe_of(embedder, task, **settings):
    (measure,) = task.measures
    return probe(embedder, {}, task.data, measure, **settings)


def test_a_fixed_split_equals_sklearn(tokenizer):
    table, truth = table_of(0, 90)
    parts = ["test" if n % 3 == 0 else "train" for n in range(90)]
    task = task_of(tokenizer, [(f"label={CLASSES[y]}",) for y in truth], parts=parts, test_part="test")
    result = probe_of(PlacedEmbedder(table), task, resamples=50)
    test = np.array(parts) == "test"
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000)).fit(table[~test], truth[~test])
    knn = KNeighborsClassifier(10, metric="cosine").fit(table[~test], truth[~test])
    assert result["tiny_linear_global"]["accuracy"] == pytest.approx(linear.score(table[test], truth[test]))
    votes = np.sort(knn.predict_proba(table[test]), axis=1)
    assert abs(result["tiny_knn_global"]["accuracy"] - knn.score(table[test], truth[test])) <= np.mean(
        votes[:, -1] == votes[:, -2]  # ties, which we break by similarity
    )
    assert result["tiny_linear_dense"]["accuracy"] == result["tiny_linear_global"]["accuracy"]
    about = result["tiny_linear_dense"]
    assert (about["n"], about["n_train"], about["n_classes"], about["dimensions"]) == (30, 60, 3, 6)
    low, high = about["interval"]
    assert low < about["accuracy"] < high


def test_a_fold_is_predicted_by_the_others(tokenizer):
    """The classes move between folds, so a probe that saw its test clips would score far better."""
    generator = np.random.default_rng(1)
    folds, truth = np.repeat(np.arange(4), 12), np.tile(np.arange(3), 16)
    table = np.eye(12, dtype=np.float32)[3 * folds + truth] + 0.01 * generator.normal(size=(48, 12)).astype(np.float32)
    labels = [(f"label={CLASSES[y]}", f"fold={fold}") for y, fold in zip(truth, folds, strict=True)]
    result = probe_of(PlacedEmbedder(table), task_of(tokenizer, labels, folds=("fold", 0)), resamples=20)
    scores = [result[f"tiny_{classifier}_global"] for classifier in ("linear", "knn")]
    assert all(score["accuracy"] < 0.7 for score in scores)
    for score in scores:
        assert list(score["fold_accuracies"]) == ["0", "1", "2", "3"] and score["n_train"] == 36
        assert score["accuracy"] == pytest.approx(np.mean(list(score["fold_accuracies"].values())))


def test_speakers_are_distributed_over_folds(tokenizer):
    labels = [(f"label={CLASSES[n % 3]}", f"actor={1000 + n // 6}") for n in range(30)]
    task = task_of(tokenizer, labels, folds=("actor", 2))
    (measure,) = task.measures
    assert isinstance(measure, Probe)
    assert measure.parts == [str(n // 6 % 2) for n in range(30)]


def test_several_labels_equal_one_against_the_rest(tokenizer):
    table, _ = table_of(2, 80)
    generator = np.random.default_rng(3)
    truth = (table @ generator.normal(size=(6, 3)) + generator.normal(size=(80, 3))) > 0
    labels = [tuple(f"label={CLASSES[y]}" for y in np.flatnonzero(row)) for row in truth]
    parts = ["test" if n % 2 else "train" for n in range(80)]
    kept, test = truth.any(axis=1), np.array(parts) == "test"
    task = task_of(tokenizer, labels, multi_label=True, parts=parts, test_part="test")
    result = probe_of(PlacedEmbedder(table), task, resamples=20)
    linear = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(max_iter=1_000)))
    linear.fit(table[kept & ~test], truth[kept & ~test])
    scores = linear.decision_function(table[kept & test])
    expected = average_precision_score(truth[kept & test], scores, average="macro")
    assert result["tiny_linear_global"]["map"] == pytest.approx(expected, abs=1e-3)
    assert 0 < result["tiny_knn_dense"]["map"] <= 1


def test_clips_without_the_label_are_ignored(tokenizer):
    table, truth = table_of(4, 30)
    labels = [(f"label={CLASSES[y]}", f"fold={n % 2}")[n == 7 :] for n, y in enumerate(truth)]
    result = probe_of(PlacedEmbedder(table), task_of(tokenizer, labels, folds=("fold", 0)), resamples=20)
    assert result["tiny_knn_global"]["n"] == 29


def test_impossible_probes_are_errors(tokenizer, monkeypatch):
    table, truth = table_of(5, 6)
    labels = [(f"label={CLASSES[y]}",) for y in truth]
    with pytest.raises(ProbeError, match="'tiny' has no folds or splits to probe with"):
        evaluate(PlacedEmbedder(table), {}, [task_of(tokenizer, labels)])
    task = task_of(tokenizer, labels, parts=["test"] * 6, test_part="test")
    with pytest.raises(ProbeError, match="'tiny', part 'test' of test: found 0 clips to train on and 6 to test on"):
        evaluate(PlacedEmbedder(table), {}, [task])
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ProbeError, match=r"needs scikit-learn .*pip install 'slap-jax\[eval\]'"):
        evaluate(PlacedEmbedder(table), {}, [task])
