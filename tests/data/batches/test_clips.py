"""Classes in batches, and mixup: energies, fractions as targets, and partners that depend on the position only."""

import dataclasses

import numpy as np
import pytest

from slap_jax.batch import LabelledBatch
from slap_jax.data.batches.clips import MixedIn, draw_partner, mix, mix_into, write_classes
from slap_jax.data.batches.labels import LabelError, LabelReader, reads_captions
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.records import make_record
from tests.data.tiny_data import tiny_config, tone


def labelled(config, **settings):
    config.objectives.contrastive.weight = config.objectives.captioning.weight = 0.0
    config.objectives.distillation.weight = 0.0
    config.objectives.classification.update(weight=1.0, label="parity", classes=("0", "1"), **settings)
    return config


def batches(config, tokenizer, count: int) -> list[LabelledBatch]:
    stream = TrainBatches(config, tokenizer)
    batches = [next(stream) for _ in range(count)]
    stream.close()
    labelled = [batch for batch in batches if isinstance(batch, LabelledBatch)]
    assert len(labelled) == count
    return labelled


def test_classes_are_in_the_slots_of_their_clips_and_captions_are_not_read(dataset, tokenizer):
    config = labelled(tiny_config(dataset, tokenizer))
    assert not reads_captions(config)
    (batch,) = batches(config, tokenizer, 1)
    assert batch.clip_labels.shape == (8, 4, 2) and not batch.text_segment_ids.any()
    for row, slot in zip(*np.nonzero(batch.clip_valid), strict=True):
        first = int(np.argmax(batch.audio_segment_ids[row] == slot + 1)) * 2_560
        number = batch.waveform[row, first] // 100  # sample 0 of clip i is 100 i
        np.testing.assert_array_equal(batch.clip_labels[row, slot], np.eye(2)[number % 2])
    assert not batch.clip_labels[~batch.clip_valid].any()


@pytest.mark.process
def test_mixtures_are_the_same_with_workers_and_after_a_resume(dataset, tokenizer):
    config = labelled(tiny_config(dataset, tokenizer), mixup_probability=0.5)
    expected = batches(config, tokenizer, 3)
    labels = np.concatenate([batch.clip_labels[batch.clip_valid] for batch in expected])
    assert 0.2 < np.mean((labels > 0).all(axis=-1)) < 0.4  # of the half that are mixed, half with the other class
    np.testing.assert_allclose(labels.sum(axis=-1), 1.0, rtol=1e-6)
    stream = TrainBatches(config, tokenizer)
    next(stream)
    state = stream.get_state()
    stream.close()
    config.data.workers = 1
    resumed = TrainBatches(config, tokenizer)
    resumed.set_state(state)
    for batch in expected[1:]:
        actual = next(resumed)
        for field in dataclasses.fields(batch):
            np.testing.assert_array_equal(getattr(actual, field.name), getattr(batch, field.name), field.name)
    resumed.close()


def test_mixup_weights_sounds_of_equal_energy():
    clip, partner = tone(0.2, 440.0, amplitude=0.5), tone(0.2, 1_000.0, amplitude=0.05)
    mixture = mix(clip, partner, 0.25)
    loudness = [2 * abs(np.mean(mixture * np.exp(-2j * np.pi * f * np.arange(3_200) / 16_000))) for f in (440, 1_000)]
    assert loudness[1] / loudness[0] == pytest.approx(0.25 / 0.75, rel=1e-2)
    assert np.sqrt(np.mean(mixture**2)) == pytest.approx(np.sqrt(np.mean(clip**2)), rel=1e-2)
    np.testing.assert_allclose(mix(clip, partner, 0.0), clip, rtol=1e-6)
    silence = np.zeros_like(clip)
    assert np.isfinite(mix(silence, clip, 0.5)).all() and np.isfinite(mix(clip, silence, 0.5)).all()


def test_a_shorter_partner_is_placed_inside_and_a_longer_one_is_cropped():
    record = make_record("partner", np.full(100, 8_000, np.int16), ["x"])
    clip = np.full(300, 8_000, np.int16)
    mix_into(clip, MixedIn(record, (1,), start=10, samples=50, offset=200, fraction=0.5))
    outside = np.r_[clip[:200], clip[250:]]
    assert len(np.unique(outside)) == 1 and len(np.unique(clip[200:250])) == 1 and clip[225] > outside[0]

    class Everything(LabelReader):
        mixup = (1.0, 1.0)

        def __init__(self):
            pass

        def __call__(self, record):
            return (1,)

    generator = np.random.default_rng(0)
    drawn = [draw_partner((0,), 60, [record], Everything(), generator) for _ in range(50)]
    assert all(mixed is not None and mixed.samples == 60 and mixed.offset == 0 for mixed in drawn)
    assert len({mixed.start for mixed in drawn if mixed}) > 10
    assert draw_partner((), 60, [record], Everything(), generator) is None  # nothing is known about such a mixture


def test_targets_add_up():
    targets = np.zeros(3, np.float32)
    record = make_record("partner", np.full(16, 5, np.int16), [])
    write_classes(targets, (0, 1), MixedIn(record, (1, 2), 0, 16, 0, 0.25))
    np.testing.assert_allclose(targets, [0.75, 1.0, 0.25])


def test_unusable_labels_are_errors_that_name_them(dataset, tokenizer):
    settings = labelled(tiny_config(dataset, tokenizer)).objectives.classification
    silence = np.zeros(160, np.int16)
    reader = LabelReader(settings)
    assert reader(make_record("a", silence, [], labels=("parity=1", "kind=x"))) == (1,)
    assert reader(make_record("a", silence, [], labels=("plain",))) == ()
    with pytest.raises(LabelError, match=r"record s/b has parity=2, which is not one of the 2 classes"):
        reader(make_record("b", silence, [], labels=("parity=2",), source="s"))
    with pytest.raises(LabelError, match=r"record /c has 2 values of the label 'parity' \(1, 0\); .*multi_label=True"):
        reader(make_record("c", silence, [], labels=("parity=1", "parity=0")))
    settings.multi_label = True
    assert LabelReader(settings)(make_record("c", silence, [], labels=("parity=1", "parity=0"))) == (0, 1)
