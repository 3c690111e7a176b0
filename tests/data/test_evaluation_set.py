import numpy as np

from slap_jax.data.evaluation_set import load_evaluation
from slap_jax.data.records import open_split


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
