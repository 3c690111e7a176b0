"""The methods that a model of another family gets from its two functions."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile

from slap_jax.data.audio import AudioError
from slap_jax.inference.bucketing import BatchSizeError
from slap_jax.inference.long_audio import WindowError
from slap_jax.inference.model import SlapModel
from slap_jax.inference.prompts import ZeroShotError
from slap_jax.inference.protocol import EmbeddingModel
from slap_jax.inference.text_input import TextError
from slap_jax.other_models.dual_encoder import DualEncoder, OtherModelError
from slap_jax.search.index import SearchError
from slap_jax.search.search import search
from slap_jax.search.update import update_index
from tests.other_models.fake_encoder import RATE, FakeEncoder, noise, unit


@pytest.fixture
def model() -> DualEncoder:
    return DualEncoder(FakeEncoder())


def test_both_kinds_of_models_have_what_the_protocol_names(model):
    assert isinstance(model, EmbeddingModel)
    members = [name for name in vars(EmbeddingModel) if not name.startswith("_")]
    assert len(members) >= 9
    assert [name for name in members if not hasattr(SlapModel, name) and name != "embed_dim"] == []


def test_a_clip_gets_the_vector_of_its_family_scaled_to_length_one(model):
    clips = [noise(2.0), noise(0.3, 1), noise(1.1, 2)]
    vectors = model.embed_audio([(clip, RATE) for clip in clips])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [unit(FakeEncoder.audio_vector(clip)) for clip in clips], rtol=1e-6)
    assert model.encoder.calls == [[16_000, 2_400, 8_800]]
    assert model.embed_audio([]).shape == (0, 4)


def test_files_of_other_rates_and_channels_are_converted(model, tmp_path):
    stereo = np.stack([noise(1.0), 0 * noise(1.0)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", noise(1.0), 2 * RATE, subtype="FLOAT")
    model.embed_audio([tmp_path / "a.wav", (tmp_path / "b.wav").read_bytes(), str(tmp_path / "a.wav")])
    assert model.encoder.calls == [[8_000, 4_000, 8_000]]
    np.testing.assert_allclose(
        model.embed_audio([tmp_path / "a.wav"])[0], unit(FakeEncoder.audio_vector(noise(1.0) / 2)), rtol=1e-5
    )


def test_a_long_recording_is_the_mean_of_its_windows_weighted_by_duration(model):
    """Windows of 2 s share a third with the next: they start every 10,667 samples, and the last ends with the clip."""
    clip = noise(5.0)
    (vector,) = model.embed_audio([(clip, RATE)])
    windows = [clip[start : start + 16_000] for start in (0, 10_667, 21_334, 32_001)]
    assert model.encoder.calls == [[16_000, 16_000, 16_000, 40_000 - 32_001]]
    total = sum(len(window) * unit(FakeEncoder.audio_vector(window)) for window in windows)
    np.testing.assert_allclose(vector, unit(total), rtol=1e-5)
    (halves,) = model.embed_audio([(clip, RATE)], window_seconds=1.0)
    assert not np.allclose(halves, vector)


def test_a_clip_of_exactly_the_longest_length_is_not_cut(model):
    model.embed_audio([(noise(2.0), RATE), (np.append(noise(2.0), np.float32(0.1)), RATE)])
    assert [len(call) for call in model.encoder.calls] == [3]
    assert model.encoder.calls[0][0] == 16_000


def test_many_windows_are_embedded_with_few_in_memory(model):
    model.embed_audio([(noise(60.0), RATE)])
    assert [len(call) for call in model.encoder.calls] == [32, 13]


@pytest.mark.parametrize("seconds", [None, 2.5, float("nan"), -1.0])
def test_windows_that_the_model_cannot_embed_are_refused(model, seconds):
    with pytest.raises(WindowError):
        model.embed_audio([(noise(1.0), RATE)], window_seconds=seconds)


def test_errors_name_the_clip(model):
    with pytest.raises(AudioError, match="clip 1"):
        model.embed_audio([(noise(1.0), RATE), (np.full(100, np.nan, np.float32), RATE)])
    with pytest.raises(AudioError, match=r"nowhere\.wav"):
        model.embed_audio([Path("nowhere.wav")])


def test_windows_have_times_and_the_vectors_of_what_they_hold(model):
    clip = noise(4.5)
    found = model.windows((clip, RATE), seconds=2.0)
    np.testing.assert_allclose(found.start, [0, 1, 2, 3])
    np.testing.assert_allclose(found.end, [2, 3, 4, 4.5])
    cuts = [(clip[int(a * RATE) : int(b * RATE)], RATE) for a, b in zip(found.start, found.end, strict=True)]
    np.testing.assert_array_equal(found.embeddings, model.embed_audio(cuts))


def test_windows_above_the_longest_length_are_embedded_like_recordings(model):
    clip = noise(7.0)
    found = model.windows((clip, RATE), seconds=3.0, hop=2.0)
    assert found.end.tolist() == [3.0, 5.0, 7.0]
    np.testing.assert_array_equal(found.embeddings[1], model.embed_audio([(clip[2 * RATE : 5 * RATE], RATE)])[0])


def test_one_clip_and_one_text_are_lists_of_one(model):
    clip = (noise(1.0), RATE)
    np.testing.assert_array_equal(model.embed_audio(clip), model.embed_audio([clip]))
    np.testing.assert_array_equal(model.embed_text("rain"), model.embed_text(["rain"]))


def test_batches_progress_and_silence_as_for_other_models(model, capsys):
    clips = [(noise(1.0, seed), RATE) for seed in range(5)]
    vectors = model.embed_audio(clips, batch_size=2, show_progress=True)
    assert [len(call) for call in model.encoder.calls] == [2, 2, 1]
    assert "5/5" in capsys.readouterr().err
    np.testing.assert_array_equal(vectors, model.embed_audio(clips))
    np.testing.assert_array_equal(model.embed_text(["a", "b", "c"], batch_size=2), model.embed_text(["a", "b", "c"]))
    with pytest.raises(BatchSizeError, match="batch_size is 0"):
        model.embed_audio(clips, batch_size=0)
    silence = (np.zeros(5 * RATE, np.float32), RATE)
    with pytest.raises(AudioError, match="is silent"):
        model.embed_audio([silence])
    assert model.embed_audio([silence], allow_silence=True).shape == (1, 4)
    assert len(model.windows(silence, seconds=3.0, allow_silence=True).start) == 3
    for refused in (model.embed_audio, model.embed_text):
        with pytest.raises(OtherModelError, match="unit vectors only"):
            refused(["a"], normalize=False)


def test_a_model_made_in_memory_cannot_be_pickled(model):
    with pytest.raises(OtherModelError, match="made in memory"):
        pickle.dumps(model)


def test_texts(model, caplog):
    with caplog.at_level(logging.WARNING):
        vectors = model.embed_text(["a dog barks", "one two three four five six seven"])
    np.testing.assert_allclose(vectors[0], unit(FakeEncoder.text_vector("a dog barks")), rtol=1e-6)
    assert caplog.messages == ["text 1 has 7 tokens and the model reads 6: the rest is cut off"]
    assert model.embed_text([]).shape == (0, 4)
    many = [f"text {number}" for number in range(600)]
    np.testing.assert_array_equal(model.embed_text(many)[599], model.embed_text(["text 599"])[0])


@pytest.mark.parametrize("texts", [["good", " "], [3], 7, ["\udcff"]])
def test_texts_that_cannot_be_embedded(model, texts):
    with pytest.raises(TextError):
        model.embed_text(texts)


def test_classes_are_the_softmax_of_the_similarity_with_averaged_prompts(model):
    clip, labels = (noise(1.0), RATE), ["dog", "a_goat", "rain"]
    (found,) = model.classify([clip], labels, template="sound")
    prompts = model.embed_text([f"this is a sound of {label.replace('_', ' ')}" for label in labels])
    logits = 20.0 * (prompts @ model.embed_audio([clip])[0])
    expected = dict(zip(labels, np.exp(logits) / np.exp(logits).sum(), strict=True))
    assert list(found) == sorted(expected, key=lambda label: -expected[label])
    np.testing.assert_allclose([found[label] for label in labels], list(expected.values()), rtol=1e-5)
    model.encoder.texts.clear()
    model.classify([clip, clip], labels, template="sound")
    assert model.encoder.texts == []  # labels are embedded once
    with pytest.raises(ZeroShotError, match="distinct"):
        model.classify([clip], ["dog", "dog"])
    with pytest.raises(ZeroShotError, match="not known"):
        model.classify([clip], ["dog"], template="unknown")


def test_what_these_models_cannot_do_is_said(model):
    assert model.can_caption is False
    with pytest.raises(OtherModelError, match="FakeClap memory has no caption decoder"):
        model.caption([(noise(1.0), RATE)], beam=2)
    with pytest.raises(OtherModelError, match="no features over time"):
        model.frames((noise(1.0), RATE))
    with pytest.raises(OtherModelError, match="no features over time"):
        model.scores((noise(1.0), RATE), ["a dog"])


def test_vectors_that_are_not_finite_are_refused(model, monkeypatch):
    monkeypatch.setattr(model.encoder, "audio_vectors", lambda waveforms: np.full((len(waveforms), 4), np.nan))
    with pytest.raises(OtherModelError, match="not finite"):
        model.embed_audio([(noise(1.0), RATE)])


def test_the_representation_says_what_the_model_is(model):
    assert repr(model) == (
        "DualEncoder(family='FakeClap', id='fake00000002', embed_dim=4, sample_rate=8000, max_seconds=2, "
        "source='memory')"
    )


def test_index_and_search(model, tmp_path):
    clips = {"short.wav": noise(1.0), "long.wav": noise(9.0, 1), "other.wav": noise(1.5, 2)}
    for name, clip in clips.items():
        soundfile.write(tmp_path / name, clip, RATE, subtype="FLOAT")
    update = update_index(model, tmp_path, progress=False)
    assert (update.files, update.bad) == (3, [])
    assert update.windows == 1 + 8 + 1  # windows are as long as the model embeds whole, here 2 s, every second
    (hit, *_) = search(model, tmp_path, audio=tmp_path / "short.wav", k=1)
    assert (Path(hit.path).name, round(hit.score, 5)) == ("short.wav", 1.0)
    assert len(search(model, tmp_path, "a dog", k=2)) == 2
    other = DualEncoder(FakeEncoder("fake00000003"))
    with pytest.raises(SearchError, match="made with model fake00000002"):
        search(other, tmp_path, "a dog")
    with pytest.raises(SearchError, match="made with model fake00000002"):
        update_index(other, tmp_path, progress=False)
