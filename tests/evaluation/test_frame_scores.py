"""Texts over time: segments, their positives, and AUROC against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from slap_jax.config.rules import ConfigError
from slap_jax.data.evaluation_set import EvaluationClip
from slap_jax.evaluation.clip_set import read_clip_set
from slap_jax.evaluation.evaluate import evaluate
from slap_jax.evaluation.frame_scores import positives, segments
from slap_jax.evaluation.task import frames_task
from tests.evaluation.hashing_embedder import HashingEmbedder
from tests.inference.tiny import noise

COLUMN = 0.16


def task_of(tokenizer, regions, seconds):
    clips = [
        EvaluationClip(f"{n}", noise(n, length), (), (), n, tuple(some))
        for n, (some, length) in enumerate(zip(regions, seconds, strict=True))
    ]
    return frames_task(read_clip_set("tiny", clips, tokenizer, 24))


def test_a_column_belongs_to_the_second_of_its_middle():
    # Columns of 0.16 s: the middle of number 6 is at 1.04 s, that of number 12 at 2.00 s.
    assert segments(2.5, 16, COLUMN) == [(0, 6, 0), (6, 12, 1), (12, 16, 2)]
    assert segments(0.05, 1, COLUMN) == [(0, 1, 0)]
    assert segments(1.0, 7, COLUMN) == [(0, 7, 0)]  # the last column is mostly padding


def test_a_segment_is_positive_where_a_region_overlaps_it():
    regions = [(0.0, 1.0, "dog"), (1.9, 2.1, "rain"), (3.5, 3.6, "dog")]
    truth = positives(regions, [0, 1, 2, 3], ["dog", "rain"])
    assert truth[:, 0].tolist() == [True, False, False, True]
    assert truth[:, 1].tolist() == [False, True, True, False]


def segment_scores(embedder, task, texts):
    vectors = embedder.text({}, task.data.encode(texts))
    for clip in task.data.clips:
        (columns,) = embedder.frame_embeddings({}, [clip.waveform])
        middle = (np.arange(len(columns)) + 0.5) * COLUMN
        scores = columns @ vectors.T
        yield np.stack([scores[middle.astype(int) == second].mean(axis=0) for second in np.unique(middle.astype(int))])


def test_classes_are_pooled_over_clips(tokenizer):
    regions = [[(0.0, 1.5, "a dog"), (2.2, 4.0, "rain")], [(1.0, 2.0, "a dog")], [(0.5, 3.5, "rain")]]
    task = task_of(tokenizer, [*regions, []], [4.0, 3.0, 4.96, 2.0])
    result = evaluate(HashingEmbedder(), {}, [task], resamples=50)["frames"]["tiny"]
    scores = np.concatenate(list(segment_scores(HashingEmbedder(), task, ["a dog", "rain"]))[:3])
    dog = [*(1, 1, 0, 0), *(0, 1, 0), *(0, 0, 0, 0, 0)]
    rain = [*(0, 0, 1, 1), *(0, 0, 0), *(1, 1, 1, 1, 0)]
    assert result["by"] == "class" and result["n_clips"] == 3 and result["n_segments"] == 12
    expected = np.mean([roc_auc_score(dog, scores[:, 0]), roc_auc_score(rain, scores[:, 1])])
    assert result["auroc"] == pytest.approx(expected, abs=1e-9)
    assert result["interval"][0] <= result["auroc"] <= result["interval"][1]


def test_sentences_are_scored_within_their_clip(tokenizer):
    regions = [[(0.0, 1.5, "a dog outside"), (0.0, 4.0, "all the time")], [(1.1, 1.9, "rain twice")]]
    task = task_of(tokenizer, regions, [4.0, 3.0])
    result = evaluate(HashingEmbedder(), {}, [task], resamples=50)["frames"]["tiny"]
    texts = ["a dog outside", "rain twice"]
    first, second = segment_scores(HashingEmbedder(), task, texts)
    expected = [roc_auc_score([1, 1, 0, 0], first[:, 0]), roc_auc_score([0, 1, 0], second[:, 1])]
    assert result["by"] == "region" and result["n_texts"] == 3 and result["n_scored"] == 2
    assert result["auroc"] == pytest.approx(np.mean(expected))


def test_a_set_without_regions_is_an_error(tokenizer):
    with pytest.raises(ConfigError, match="'tiny': frames needs clips with timed regions, and it has none"):
        task_of(tokenizer, [[], []], [1.0, 1.0])
