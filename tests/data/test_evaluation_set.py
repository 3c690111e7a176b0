import numpy as np
import pytest

from slap_jax.data import evaluation_set
from slap_jax.data.evaluation_set import EvaluationClip, clip_facts, load_evaluation, waveform_chunks
from slap_jax.data.records import Record, open_split


def test_evaluation_clips_are_whole_ordered_and_complete(dataset):
    clips = load_evaluation(dataset, "test+train")
    records = open_split(dataset, "test+train")
    assert [clip.id for clip in clips] == [record.id for record in records]
    assert clips.fingerprint == records.fingerprint and clips.split == "test+train"
    for clip, record in zip(clips, records, strict=True):
        assert np.array_equal(clip.waveform, record.waveform()) and clip.key == record.key
        assert clip.captions == record.captions and clip.labels == record.labels
    assert max(len(clip.waveform) for clip in clips) > 2.56 * 16_000
    assert len(load_evaluation(dataset, "train", limit=3)) == 3


def test_clips_are_decoded_only_when_they_are_read(dataset, monkeypatch):
    decoded = []
    clips = load_evaluation(dataset, "test")
    lengths = [len(clip.waveform) for clip in clips]
    decode = Record.waveform
    monkeypatch.setattr(Record, "waveform", lambda record: decoded.append(record.id) or decode(record))
    facts = list(clip_facts(clips))
    assert not decoded and [fact.samples for fact in facts] == lengths
    records = open_split(dataset, "test")
    assert [(fact.id, fact.labels) for fact in facts] == [(record.id, record.labels) for record in records]
    assert facts[0].labels == ("parity=0",) and not decoded
    assert clips[-1].id == facts[-1].id and [clip.id for clip in clips[:2]] == [fact.id for fact in facts[:2]]
    assert decoded == [facts[-1].id, facts[0].id, facts[1].id]
    with pytest.raises(IndexError, match="clip 6 of 6 in split 'test'"):
        clips[6]


def test_facts_of_clips_in_memory():
    clip = EvaluationClip("a", np.zeros(5, np.int16), ("rain",), ("kind=b",), 3, ((0.0, 1.0, "drop"),))
    (fact,) = clip_facts([clip])
    assert (fact.id, fact.samples, fact.captions, fact.labels) == ("a", 5, ("rain",), ("kind=b",))
    assert fact.regions == ((0.0, 1.0, "drop"),)


def test_chunks_hold_a_few_clips_each(dataset, monkeypatch):
    clips = load_evaluation(dataset, "train")
    samples = [fact.samples for fact in clips.facts()]
    monkeypatch.setattr(evaluation_set, "_CHUNK_CLIPS", 4)
    monkeypatch.setattr(evaluation_set, "_CHUNK_SAMPLES", 40_000)
    chunks = list(waveform_chunks(clips, samples))
    assert [index for chunk, _ in chunks for index in chunk] == list(range(24))
    for chunk, waveforms in chunks:
        assert [len(waveform) for waveform in waveforms] == [samples[index] for index in chunk]
        assert len(chunk) == 1 or (len(chunk) <= 4 and sum(map(len, waveforms)) <= 40_000)
    assert max(len(chunk) for chunk, _ in chunks) > 1 and max(samples) > 40_000  # longer than a chunk, so alone in one
    chosen = [index for chunk, _ in waveform_chunks(clips, samples, [5, 2, 9]) for index in chunk]
    assert chosen == [5, 2, 9]
