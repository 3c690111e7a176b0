"""A trained classifier: probabilities of short clips, and of long recordings from windows in bounded memory."""

import pickle

import numpy as np
import pytest
import soundfile

from slap_jax.data.audio import AudioError
from slap_jax.inference.classifier import TrainedClassifier
from tests.inference.tiny import noise, shared_params, tiny_config

pytestmark = pytest.mark.compile

CLASSES = ("bell", "dog", "rain")
LONG = noise(0, 3.0)  # as in test_long_audio: windows of 0.96 s every 0.64 s, the last of 0.44 s


@pytest.fixture(scope="module")
def classifier():
    config = tiny_config()
    config.data.max_seconds = 1.0
    config.objectives.classification.update(label="kind", classes=CLASSES, multi_label=False)
    width = config.model.audio_encoder.width
    kernel = np.random.default_rng(1).normal(size=(width, 3)).astype(np.float32)
    head = {
        "norm": {"scale": np.ones(width, np.float32)},
        "output": {"kernel": kernel, "bias": np.zeros(3, np.float32)},
    }
    return TrainedClassifier(
        config, {"model": shared_params()["model"], "objectives": {"classification": {"head": head}}}
    )


def values(result):
    return np.array([result[name] for name in CLASSES], np.float32)


def test_short_clips_are_one_row(classifier):
    clips = [noise(1, 1.0), noise(2, 0.3)]
    rows = classifier.probabilities(clips)
    results = classifier.predict([(clip, 16_000) for clip in clips])
    for row, result in zip(rows, results, strict=True):
        assert np.array_equal(values(result), row) and list(result.values()) == sorted(result.values(), reverse=True)
        assert sum(result.values()) == pytest.approx(1.0)


def test_a_long_recording_is_the_mean_of_its_windows(classifier):
    parts = [LONG[start : start + 15_360] for start in range(0, 40_961, 10_240)]
    rows = classifier.probabilities(parts).astype(np.float64)
    expected = np.average(rows, axis=0, weights=[len(part) for part in parts])
    short, long = classifier.predict([noise(1, 0.3), LONG], sample_rate=16_000)
    assert np.allclose(values(long), expected, atol=1e-6) and sum(long.values()) == pytest.approx(1.0)
    assert np.abs(values(long) - classifier.probabilities([LONG])[0]).max() > 1e-4
    assert classifier.predict([LONG], sample_rate=16_000) == [long]
    assert np.array_equal(values(short), classifier.probabilities([noise(1, 0.3)])[0])


def test_a_long_file_is_never_in_memory(classifier, long_file, windows):
    assert len(classifier.predict([long_file])) == 1
    assert windows.made > 90 and windows.most <= 8


def test_bad_and_silent_files_are_handled_as_by_the_model(classifier, tmp_path):
    with pytest.raises(AudioError, match=r"clip 1: .*gone\.wav is missing"):
        classifier.predict([(LONG, 16_000), tmp_path / "gone.wav"])
    with pytest.raises(AudioError, match=r"^/.*gone\.wav is missing"):
        classifier.predict(str(tmp_path / "gone.wav"))
    soundfile.write(tmp_path / "silent.wav", np.zeros(8_000), 16_000)
    with pytest.raises(AudioError, match=r"^/.*silent\.wav is silent"):
        classifier.predict(tmp_path / "silent.wav")
    assert len(classifier.predict(tmp_path / "silent.wav", allow_silence=True)) == 1


def test_a_classifier_can_be_pickled(classifier):
    clip = noise(1, 0.3)
    copy = pickle.loads(pickle.dumps(classifier))
    assert copy.predict(clip, 16_000) == classifier.predict(clip, 16_000)
    assert repr(copy) == "TrainedClassifier(classes=['bell', 'dog', 'rain'], multi_label=False)"
    assert (copy.sample_rate, copy.max_seconds) == (16_000, 1.0)
