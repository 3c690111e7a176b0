"""The classes and folds that labels name."""

import numpy as np
import pytest

from slap_jax.config.rules import ConfigError
from slap_jax.data.evaluation_set import EvaluationClip
from slap_jax.evaluation.clip_set import label_folds, read_clip_set, read_labels
from slap_jax.inference.prompts import ZeroShotError


@pytest.fixture
def clip_set(tokenizer):
    """Returns a function that makes the set of clips with the given labels."""

    def make(*labels):
        clips = [EvaluationClip(f"clip-{n}", np.zeros(9, np.int16), (), some, n) for n, some in enumerate(labels)]
        return read_clip_set("tiny", clips, tokenizer, 24)

    return make


def test_clips_without_the_label_have_no_class(clip_set):
    data = clip_set(("drum=kick drum",), ("loud",), ("drum=snare", "place=hall"), ("drum=kick drum",))
    labels = read_labels(data, "drum", other_classes=("bell", "snare"))
    assert labels.classes == ["kick drum", "snare", "bell"] and labels.index.tolist() == [0, -1, 1, 0]
    assert labels.labelled.tolist() == [True, False, True, True]


def test_a_label_key_is_matched_whole(clip_set):
    labels = read_labels(clip_set(("drum=a",), ("drummer=b",), ("drum",)), "drum")
    assert labels.classes == ["a"] and labels.index.tolist() == [0, -1, -1]


def test_several_classes_per_clip(clip_set):
    labels = read_labels(clip_set(("tag=b", "tag=a"), (), ("tag=b",)), "tag", multi_label=True)
    assert labels.classes == ["a", "b"] and labels.truth.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_clips_of_one_value_share_a_fold(clip_set):
    data = clip_set(("voice=c",), ("voice=a",), ("voice=b",), ("voice=a",))
    assert label_folds(data, "voice") == ["c", "a", "b", "a"]
    assert label_folds(data, "voice", 2) == ["0", "0", "1", "0"]


def test_label_errors_say_what_to_do(clip_set):
    data = clip_set(("drum=a",), ("place=b", "bare"))
    with pytest.raises(ZeroShotError, match="set 'tiny': no clip has the label 'genre'; labels found: drum, place"):
        read_labels(data, "genre")
    with pytest.raises(ConfigError, match="set 'tiny': clip clip-1 has no label 'drum', which defines the folds"):
        label_folds(data, "drum")
    twice = clip_set(("drum=a",), ("drum=b", "drum=a"))
    for read in (read_labels, label_folds):
        with pytest.raises(ZeroShotError, match=r"clip clip-1 has 2 values of the label 'drum' \(a, b\); one is expec"):
            read(twice, "drum")
