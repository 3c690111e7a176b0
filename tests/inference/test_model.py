"""The Python API: every form of input, equal results, and one clear error for each bad input."""

import io
import logging
import os
import pickle
import re
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
import soundfile

import slap_jax
from slap_jax.checkpoints.model_dir import ExportError, export
from slap_jax.data.audio import AudioError
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.inference.bucketing import BatchSizeError
from slap_jax.inference.device import DeviceError
from slap_jax.inference.model import SlapModel
from slap_jax.inference.prompts import ZeroShotError
from slap_jax.inference.text_input import TextError
from tests.inference.tiny import noise, shared_params, tiny_config, tiny_tokenizer

pytestmark = pytest.mark.compile

CONFIG = tiny_config()
PARAMS = shared_params()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    tiny_tokenizer(root / "words.model")
    export(PARAMS, CONFIG, root / "words.model", root / "export")
    soundfile.write(root / "clip.wav", noise(0, 1.0), 16_000, subtype="FLOAT")
    stereo = np.stack([noise(1, 1.0, 44_100), noise(2, 1.0, 44_100)], axis=1)
    soundfile.write(root / "stereo.flac", stereo, 44_100)
    return root


@pytest.fixture(scope="module")
def model(directory):
    return slap_jax.load(directory / "export")


def test_every_form_of_a_clip_gives_the_same_vector(model, directory):
    path = directory / "clip.wav"
    samples, rate = soundfile.read(path, dtype="float32")
    forms = [str(path), path, path.read_bytes(), (samples, rate), (samples[:, None].repeat(2, axis=1), rate)]
    embeddings = model.embed_audio(forms)
    assert embeddings.dtype == np.float32 and embeddings.shape == (5, 16)
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)
    for embedding in embeddings[1:4]:
        assert np.array_equal(embedding, embeddings[0])
    assert np.allclose(embeddings[4], embeddings[0], atol=1e-6)


def test_stereo_of_another_rate(model, directory):
    path = directory / "stereo.flac"
    from_file = model.embed_audio([path])
    samples, rate = soundfile.read(path, dtype="float32")
    integers, _ = soundfile.read(path, dtype="int16")
    assert np.array_equal(model.embed_audio([(samples, rate)]), from_file)
    assert np.allclose(model.embed_audio([(integers, rate)]), from_file, atol=1e-5)


def test_alone_or_in_a_list(model, directory):
    clips = [directory / "clip.wav", directory / "stereo.flac", (noise(3, 1.0), 16_000)]
    together = model.embed_audio(clips)
    assert np.array_equal(model.embed_audio(clips[::-1])[::-1], together)
    for index, clip in enumerate(clips):
        assert np.array_equal(model.embed_audio([clip])[0], together[index])


def test_more_clips_than_are_decoded_at_once(model, monkeypatch):
    clips = [(noise(index, 0.3), 16_000) for index in range(5)]
    whole = model.embed_audio(clips)
    monkeypatch.setattr("slap_jax.inference.long_audio.AHEAD", 1)
    assert np.array_equal(model.embed_audio(clips), whole)


def test_one_sample_is_enough(model):
    embedding = model.embed_audio([(np.array([0.5], np.float32), 16_000), (np.full(1, 99, np.int16), 8_000)])
    assert np.isfinite(embedding).all()


def test_text(model):
    texts = ["a dog barks outside", "Rain falls", "rain falls", "unknown words entirely " * 50]
    embeddings = model.embed_text(texts)
    assert embeddings.shape == (4, 16) and embeddings.dtype == np.float32
    assert np.array_equal(embeddings[1], embeddings[2])  # the vocabulary folds case
    assert np.array_equal(model.embed_text(texts[:1])[0], embeddings[0])
    assert model.embed_text([]).shape == (0, 16) and model.embed_audio([]).shape == (0, 16)


def test_a_truncated_text_is_a_warning(model, caplog):
    fits, longer = "rain " * 3, "rain " * 100
    with caplog.at_level(logging.WARNING):
        vectors = model.embed_text([fits, longer, "rain " * 101])
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and re.fullmatch(r"text 1 has \d+ tokens and the model reads 24: .*cut off", messages[0])
    assert np.array_equal(vectors[1], vectors[2]) and not np.array_equal(vectors[0], vectors[1])


def test_samples_with_a_separate_sample_rate(model, directory):
    samples, rate = soundfile.read(directory / "stereo.flac", dtype="float32")
    from_file = model.embed_audio([directory / "stereo.flac"])
    assert np.array_equal(model.embed_audio([samples], sample_rate=rate), from_file)
    assert np.array_equal(model.get_audio_features([samples], rate), from_file)
    assert np.array_equal(model.embed_audio([jax.numpy.asarray(samples)], sample_rate=rate), from_file)
    assert np.array_equal(model.embed_audio([(samples, rate)], sample_rate=8_000), from_file)  # its own rate counts
    assert np.array_equal(model.get_text_features(["rain"]), model.embed_text(["rain"]))


def test_the_model_id_depends_on_config_weights_and_tokenizer(model, directory):
    assert re.fullmatch("[0-9a-f]{12}", model.model_id)
    other = slap_jax.load(directory / "export", compute_dtype="bfloat16")
    assert other.model_id == model.model_id
    different = jax.tree.map(np.array, PARAMS)
    different["model"]["audio_projection"]["kernel"][0, 0] += 1e-3
    config = tiny_config()
    config.audio.mean = -4.0
    tokenizer = load_tokenizer(directory / "words.model")
    ids = [SlapModel(*parts, tokenizer).model_id for parts in ((CONFIG, different), (config, PARAMS))]
    assert len({model.model_id, *ids}) == 3


def test_similarity_is_cosine(model, directory):
    audio, text = model.embed_audio([directory / "clip.wav"]), model.embed_text(["a dog barks", "wind"])
    similarity = model.similarity(audio, text)
    assert similarity.shape == (1, 2) and similarity[0, 1] == pytest.approx(float(audio[0] @ text[1]))


def test_classify_is_the_softmax_of_scaled_similarity(model, directory):
    labels = ["a dog barks", "rain", "wind_blows"]
    (result,) = model.classify([directory / "clip.wav"], labels, template="plain")
    assert set(result) == set(labels) and sum(result.values()) == pytest.approx(1.0)
    assert list(result.values()) == sorted(result.values(), reverse=True)
    text = model.embed_text(["a dog barks", "rain", "wind blows"])
    logits = 20.0 * model.similarity(model.embed_audio([directory / "clip.wav"]), text)[0]
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [result[label] for label in labels] == pytest.approx(expected.tolist(), rel=1e-4)
    assert model.classify([], labels) == []


def test_caption(model, directory):
    clips = [directory / "clip.wav", directory / "stereo.flac"]
    captions = model.caption(clips)
    assert model.can_caption and len(captions) == 2 and all(isinstance(text, str) for text in captions)
    assert model.caption(clips[::-1])[::-1] == captions
    assert model.caption([]) == []


def test_captions_equal_teacher_forcing(model):
    """Each token that greedy decoding wrote is the likeliest one given the tokens before it."""
    import jax.numpy as jnp
    from flax import nnx

    from slap_jax.inference.embedder import one_clip_rows
    from slap_jax.models.caption_decoder import CaptionDecoder
    from slap_jax.models.encoders import token_segment_ids

    clip = noise(5, 1.0)
    captioner = model._captioners[1]
    (tokens,) = captioner(PARAMS["model"], PARAMS["objectives"]["captioning"]["decoder"], [clip])
    tokens = [1, *tokens[: tokens.index(2) + 1 if 2 in tokens else len(tokens)]]
    decoder = CaptionDecoder(CONFIG.model, 32, rngs=nnx.Rngs(1))
    slap = model._embedder.model(PARAMS["model"])
    segments, columns = one_clip_rows(jnp.array([16_000]), 7, 2_560)
    waveform = np.zeros((1, 7 * 2_560), np.float32)
    waveform[0, :16_000] = clip
    memory = slap.audio_tokens(slap.audio_patches(waveform, segments), segments, columns)
    row = jnp.array([tokens], jnp.int32)
    hidden = decoder(row, jnp.ones_like(row), jnp.arange(row.shape[1])[None], memory, token_segment_ids(segments, 4))
    assert np.asarray(decoder.logits(hidden))[0].argmax(axis=-1)[:-1].tolist() == tokens[1:]


def test_captioning_without_a_decoder_is_an_error(directory, tmp_path):
    params = {"model": PARAMS["model"], "objectives": {"contrastive": PARAMS["objectives"]["contrastive"]}}
    model = SlapModel.load(export(params, CONFIG, directory / "words.model", tmp_path))
    assert not model.can_caption
    with pytest.raises(ExportError, match=r"config\.objectives\.captioning\.weight=0"):
        model.caption([(noise(0, 0.3), 16_000)])


def test_another_precision(directory):
    half = slap_jax.load(directory / "export", compute_dtype="bfloat16").embed_audio([directory / "clip.wav"])
    full = slap_jax.load(directory / "export").embed_audio([directory / "clip.wav"])
    assert 1e-6 < np.abs(half - full).max() < 0.1
    with pytest.raises(ExportError, match="compute_dtype is 'float16'"):
        slap_jax.load(directory / "export", compute_dtype="float16")


def test_parameters_of_another_architecture(directory, tmp_path):
    config = tiny_config()
    config.model.embed_dim = 8
    with pytest.raises(ExportError, match=r"audio_projection/kernel: found \[32, 16\], expected \[32, 8\]"):
        SlapModel.load(export(PARAMS, config, directory / "words.model", tmp_path))


def test_a_vocabulary_larger_than_the_model(directory, tmp_path):
    config = tiny_config()
    config.model.vocab_size = 20
    with pytest.raises(ExportError, match=r"has \d+ ids, the model only 20"):
        SlapModel(config, PARAMS, load_tokenizer(directory / "words.model"))


def text_file() -> bytes:
    return b"this is no audio"


def truncated() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(0, 1.0), 16_000, format="WAV")
    return buffer.getvalue()[:5_000]


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ("missing.wav", r"clip 1: .*missing\.wav is missing"),
        (b"", "clip 1 .* is empty"),
        (text_file(), "clip 1 .* is not readable"),
        (truncated(), "clip 1 .* is truncated"),
        ((np.zeros(0, np.float32), 16_000), "clip 1 holds no samples"),
        ((np.array([0.1, np.nan], np.float32), 16_000), "clip 1 has 1 NaN"),
        ((np.zeros((2, 16_000), np.float32), 16_000), r"clip 1 has shape \(2, 16000\)"),
        ((np.zeros(8, np.float32), 0), "clip 1 has sample rate 0"),
        (np.zeros(8, np.float32), "clip 1 is a ndarray; expected a path"),
        (None, "clip 1 is a NoneType"),
        ((16_000, np.zeros(8, np.float32)), r"clip 1 is a pair \(int, ndarray\); expected \(samples, sample rate\)"),
        (os.devnull, "null is a pipe or device; expected an audio file"),
    ],
)
def test_bad_clips_are_named_by_their_position(model, clip, message):
    with pytest.raises(AudioError, match=message):
        model.embed_audio([(noise(0, 0.3), 16_000), clip])


def test_one_clip_or_text_is_a_list_of_one(model, directory):
    path = directory / "stereo.flac"
    samples, rate = soundfile.read(path, dtype="float32")
    (expected,) = model.embed_audio([path])
    for clip in (str(path), path, path.read_bytes(), (samples, rate), (samples, np.int64(rate))):
        vectors = model.embed_audio(clip)
        assert vectors.shape == (1, 16) and np.array_equal(vectors[0], expected)
    assert np.array_equal(model.embed_audio(samples, sample_rate=rate)[0], expected)
    assert np.array_equal(model.embed_audio((path, samples), sample_rate=rate), [expected, expected])
    assert np.array_equal(model.embed_text("rain"), model.embed_text(["rain"]))
    assert model.classify(path, ["dog", "rain"]) == model.classify([path], ["dog", "rain"])
    assert model.caption(path) == model.caption([path])
    assert np.array_equal(model.scores(path, "rain").scores, model.scores(path, ["rain"]).scores)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ("gone.wav", r"^gone\.wav is missing"),
        (b"RIFF", r"^clip \(4 bytes\) is not readable"),
        ((16_000, np.zeros(8)), r"^clip is a pair \(int, ndarray\); expected \(samples, sample rate\)"),
        (np.zeros((4, 16_000)), r"shape \(4, 16000\) was given; an array is one clip.*several clips as a list"),
        (None, "expected a clip or a list of clips, found None"),
    ],
)
def test_errors_of_a_single_clip_have_no_index(model, clip, message):
    with pytest.raises(AudioError, match=message):
        model.embed_audio(clip, sample_rate=16_000)


def test_vectors_before_they_have_unit_length(model, directory):
    clips, texts = [directory / "clip.wav", (noise(7, 0.4), 16_000)], ["a dog barks", "rain"]
    for embed, items in ((model.embed_audio, clips), (model.embed_text, texts)):
        unit, projected = embed(items), embed(items, normalize=False)
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        assert np.abs(lengths - 1).min() > 1e-2
        assert np.allclose(projected / lengths, unit, atol=1e-6)
    long = noise(8, 70.0)  # three windows
    windows = model.embed_audio(long, 16_000, normalize=False)
    assert windows.shape == (1, 16) and np.linalg.norm(windows) > 0


def test_the_batch_size_does_not_change_vectors(model, directory):
    clips = [directory / "clip.wav", directory / "stereo.flac", *((noise(n, 0.4), 16_000) for n in range(3))]
    for size in (1, 2, np.int64(64)):
        assert np.array_equal(model.embed_audio(clips, batch_size=size), model.embed_audio(clips))
    assert np.array_equal(model.embed_text(["a", "dog"], batch_size=1), model.embed_text(["a", "dog"]))
    assert model.caption(clips[:2], batch_size=1) == model.caption(clips[:2])
    for size in (0, 2.0, True, "8"):
        with pytest.raises(BatchSizeError, match=f"batch_size is {size!r}; write a whole number"):
            model.embed_audio(clips, batch_size=size)


def test_progress_counts_clips_and_texts(model, directory, capsys):
    clips = [directory / "clip.wav", directory / "stereo.flac"]
    for call in (model.embed_audio, model.caption, lambda clips, **settings: model.classify(clips, ["a"], **settings)):
        call(clips, show_progress=True)
        assert "2/2" in capsys.readouterr().err
    model.embed_text(["a", "b", "c"], show_progress=True)
    assert "3/3" in capsys.readouterr().err
    model.embed_audio(clips)
    assert capsys.readouterr().err == ""


def test_one_label_is_mentioned(model, directory, caplog):
    assert model.classify(directory / "clip.wav", ["dog"]) == [{"dog": 1.0}]
    assert "there is one label, so its probability is 1" in caplog.text


def test_a_device_is_chosen_by_name(directory, model):
    clip = directory / "clip.wav"
    other = slap_jax.load(directory / "export", device="cpu:1")
    assert isinstance(other, SlapModel)
    assert np.array_equal(other.embed_audio(clip), model.embed_audio(clip))
    assert np.array_equal(other.embed_text("rain"), model.embed_text("rain"))
    assert {array.device for array in jax.tree.leaves(other.params)} == {jax.devices("cpu")[1]}
    assert other._embedder.bucketing.place(np.zeros(3)).device == jax.devices("cpu")[1]
    names: list[Any] = ["abacus", "cpu:8", "cpu:", "cpu:-1", 0]
    for name in names:
        with pytest.raises(DeviceError, match=f"device is {name!r}, which JAX does not have here; it has cpu:0, cpu:1"):
            slap_jax.load(directory / "export", device=name)


def test_the_representation_says_what_the_model_is(model, directory):
    text = repr(model)
    assert text.startswith(f"SlapModel(id='{model.model_id}', embed_dim=16, parameters=")
    assert text.endswith(f"sample_rate=16000, max_seconds=30, can_caption=True, source='{directory / 'export'}')")
    assert (model.sample_rate, model.max_seconds) == (16_000, 30.0)


def test_results_that_are_not_finite_are_errors(directory, tmp_path):
    """Whether samples or weights are the reason: NaN can be neither compared nor written as JSON."""
    params = jax.tree.map(np.array, PARAMS)
    for tower in ("audio_projection", "text_projection"):
        params["model"][tower]["kernel"][0, 0] = np.nan
    broken = SlapModel(CONFIG, params, load_tokenizer(directory / "words.model"))
    clip = directory / "clip.wav"
    for call in (broken.embed_audio, broken.windows, lambda clip: broken.embed_audio(clip, normalize=False)):
        with pytest.raises(AudioError, match=r"^/.*clip\.wav has no finite result; .*`slap doctor`"):
            call(clip)
    with pytest.raises(AudioError, match=r"^clip 0: .*clip\.wav has no finite result"):
        broken.embed_audio([clip, (noise(0, 0.1), 16_000)])
    with pytest.raises(TextError, match=r"^text 0 has no finite vector: .*`slap doctor`"):
        broken.embed_text("rain")
    assert broken.frames(clip).features.shape == (7, 32)  # before the projection


def test_a_model_can_be_pickled(model, directory):
    """Without its files: another machine may not have them."""
    copy = pickle.loads(pickle.dumps(model))
    clip = directory / "clip.wav"
    assert np.array_equal(copy.embed_audio(clip), model.embed_audio(clip))
    assert np.array_equal(copy.embed_text("rain"), model.embed_text("rain"))
    assert copy.caption(clip) == model.caption(clip) and copy.model_id == model.model_id
    assert copy.config == model.config and repr(copy) == repr(model)


def test_arguments_that_are_not_lists_are_errors(model):
    with pytest.raises(TextError, match="expected a text or a list of texts, found None"):
        model.embed_text(None)


def test_generators_are_accepted_as_lists(model, directory):
    texts, clips, labels = ["a dog", "rain"], [directory / "clip.wav"], ["dog", "rain"]
    np.testing.assert_array_equal(model.embed_text(text for text in texts), model.embed_text(texts))
    np.testing.assert_array_equal(model.embed_audio(iter(clips)), model.embed_audio(clips))
    expected = model.classify(clips, labels)
    assert model.classify(iter(clips), iter(labels)) == model.classify(clips, np.array(labels)) == expected


def test_bad_text(model):
    with pytest.raises(TextError, match="text 1 is '  '"):
        model.embed_text(["a dog", "  "])
    with pytest.raises(TextError, match=r"text 0 is .*not UTF-8"):
        model.embed_text(["caf\udce9"])  # as Python passes on an argument in Latin-1


@pytest.mark.parametrize("labels", [[], "dog", ["dog", "dog"], ["dog", " "], ["dog", None], None, 5])
def test_bad_labels(model, labels):
    with pytest.raises(ZeroShotError, match="expected a list of distinct names"):
        model.classify([(noise(0, 0.3), 16_000)], labels)


@pytest.mark.parametrize("template", [None, ["{} is heard"], "loud"])
def test_bad_template(model, template):
    with pytest.raises(ZeroShotError, match="is not known; name one of ensemble"):
        model.classify([(noise(0, 0.3), 16_000)], ["dog", "cat"], template)


@pytest.mark.process
def test_importing_the_package_is_instant_and_touches_no_device():
    program = """
import sys, slap_jax
assert 'jax' not in sys.modules
print(slap_jax.__version__)
import jax
slap_jax.SlapModel
assert not jax._src.xla_bridge._backends
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = slap_jax.nothing
