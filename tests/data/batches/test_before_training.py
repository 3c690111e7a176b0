"""Training that cannot learn is mentioned before the first step, with what to change."""

import numpy as np
import pytest

from slap_jax.config.defaults import source
from slap_jax.data.batches import before_training
from slap_jax.data.batches.before_training import mixture_statistics, warnings_before_training
from slap_jax.data.log_mel_statistics import read_log_mel_statistics
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import make_record, open_split
from tests.tiny import VOCABULARY, tiny_config


class Words:
    path, vocab_size, pad, bos, eos = "words.model", VOCABULARY, 0, 1, 2


def problems(tmp_path, captions, vocabulary: int = VOCABULARY, labels=(), **changes):
    """The warnings for clips of half a second with these captions, or with these labels."""
    samples = (np.random.default_rng(0).normal(size=8_000) * 3_000).astype(np.int16)
    records = [
        make_record(f"c{number}", samples, list(one), source="s", labels=labels[number : number + 1])
        for number, one in enumerate(captions)
    ]
    prepare_records({"train": (len(records), records)}, tmp_path / "data", {"s": 1}, log=lambda line: None)
    config = tiny_config()
    del config.data.train["scenes"]
    config.data.train.clips = source(str(tmp_path / "data"), "train")
    config.data.update(rows=1, virtual_shards=1)
    config.audio.mean, config.audio.std = read_log_mel_statistics(tmp_path / "data") or (0.0, 0.0)
    config.update_from_flattened_dict(changes)
    words = Words()
    words.vocab_size = vocabulary
    return warnings_before_training(config, words, {"clips": open_split(tmp_path / "data", "train")}, {"clips": 1.0})


MANY = [[f"sound {number}"] for number in range(12)]


def test_nothing_is_said_about_usual_data(tmp_path):
    assert problems(tmp_path, MANY) == []


def test_one_clip_has_no_negatives(tmp_path):
    (text,) = problems(tmp_path, [["a sound"]])
    assert text.startswith("the training data are one clip: ") and "no negatives" in text


def test_one_caption_for_all_clips(tmp_path):
    (text,) = problems(tmp_path, [["A sound"], ["a sound "]] + 10 * [["a sound"]])
    assert text.startswith("all 12 training clips that were read have the same caption, 'a sound'")
    assert "no negatives" in text


def test_one_label_for_all_clips_makes_one_caption(tmp_path):
    (text,) = problems(tmp_path, [[]] * 12, labels=["label=dog"] * 12)
    assert "have the same caption, 'dog'" in text


def test_captions_that_are_not_read_may_be_equal(tmp_path):
    weights = {f"objectives.{name}.weight": 0.0 for name in ("contrastive", "captioning", "distillation")}
    labels = {"objectives.classification.weight": 1.0, "objectives.classification.classes": ("a", "b")}
    assert problems(tmp_path, [["a sound"]] * 12, **weights, **labels) == []


def test_fewer_clips_than_a_batch(tmp_path):
    (text,) = problems(tmp_path, MANY, **{"data.rows": 8, "data.slots": 8})
    assert text.startswith("the training data are 12 clips, fewer than the ") and "config.data.rows=" in text


def test_a_vocabulary_of_another_size_names_both(tmp_path):
    (text,) = problems(tmp_path, MANY, vocabulary=40)
    assert "config.model.vocab_size=64, but words.model has 40 pieces" in text
    assert "write config.model.vocab_size=40" in text
    assert problems(tmp_path, MANY, vocabulary=40, init_from="model") == []  # the model fixes it


@pytest.mark.parametrize(("mean", "differs"), [(-8.0, False), (-8.2, False), (-5.0, True)])
def test_a_mean_that_was_not_measured_names_both(tmp_path, monkeypatch, mean, differs):
    monkeypatch.setattr(before_training, "read_log_mel_statistics", lambda path, audio=None: (-8.0, 4.0))
    said = problems(tmp_path, MANY, **{"audio.mean": mean, "audio.std": 4.0})
    assert len(said) == differs
    if differs:
        assert "config.audio.mean=-5 and std=4, but the training data have -8.00 and 4.00" in said[0]
        assert "--config.audio.mean=-8.00 --config.audio.std=4.00" in said[0]


def test_statistics_of_a_mixture(monkeypatch):
    """Those of the concatenation of two normal samples."""
    config = tiny_config()
    config.data.train.other = source("other", "train")
    parts = {"unused/scenes": (-8.0, 2.0), "other": (-4.0, 3.0)}
    monkeypatch.setattr(before_training, "read_log_mel_statistics", lambda path, audio: parts.get(path))
    generator = np.random.default_rng(0)
    mixed = np.concatenate([generator.normal(-8.0, 2.0, 300_000), generator.normal(-4.0, 3.0, 100_000)])
    assert mixture_statistics(config, {"scenes": 0.75, "other": 0.25}) == pytest.approx(
        (mixed.mean(), mixed.std()), rel=0.01
    )
    del parts["other"]
    assert mixture_statistics(config, {"scenes": 0.75, "other": 0.25}) is None
