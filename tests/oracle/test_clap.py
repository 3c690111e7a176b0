"""A randomly initialised ClapModel in a folder gives transformers' own vectors, through the API and the commands."""

import json
import multiprocessing
import pickle
import shutil

import numpy as np
import pytest
import soundfile

from benchmarks.random_clap import TINY_FEATURES, save_random_clap
from slap_jax.cli import main
from slap_jax.inference.model import SlapModel
from slap_jax.inference.protocol import EmbeddingModel
from slap_jax.other_models.dual_encoder import DualEncoder, OtherModelError
from slap_jax.other_models.load import load_model
from slap_jax.search.index import SearchError
from slap_jax.search.search import search
from slap_jax.search.update import update_index

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

RATE = TINY_FEATURES["sampling_rate"]


@pytest.fixture(scope="module", params=["unfused", "fused"])
def folder(request, tmp_path_factory):
    return save_random_clap(tmp_path_factory.mktemp(request.param), fused=request.param == "fused", tiny=True)


@pytest.fixture(scope="module")
def model(folder) -> DualEncoder:
    loaded = load_model(folder, device="cpu")
    assert isinstance(loaded, DualEncoder)
    return loaded


@pytest.fixture(scope="module")
def theirs(folder):
    """Returns transformers' vector of one clip, and of texts."""
    clap = transformers.ClapModel.from_pretrained(folder).eval()
    processor = transformers.ClapProcessor.from_pretrained(folder)

    def audio(clip):
        inputs = processor(audio=[clip], sampling_rate=RATE, return_tensors="pt")
        with torch.inference_mode():
            return clap.get_audio_features(**inputs).pooler_output[0].numpy()

    def text(texts):
        with torch.inference_mode():
            return clap.get_text_features(**processor(text=texts, padding=True, return_tensors="pt")).pooler_output

    return audio, text


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=samples) * 0.1).astype(np.float32)


@pytest.mark.parametrize("samples", [1, 100, 7_999, 8_000, 8_001, 15_999, 16_000])
def test_vectors_of_clips(model, theirs, samples):
    clip = noise(samples)
    np.testing.assert_allclose(model.embed_audio([(clip, RATE)])[0], theirs[0](clip), atol=1e-5)


def test_vectors_of_texts_of_different_lengths(model, theirs):
    texts = ["rain", "a dog barks and then a very long train passes by", "wind", "two people talk"]
    np.testing.assert_allclose(model.embed_text(texts), theirs[1](texts), atol=1e-5)
    assert len({tuple(vector.round(4)) for vector in model.embed_text(texts)}) == 4


def test_windows_of_a_long_recording_are_those_of_their_cuts(model, theirs):
    clip = noise(round(3.3 * RATE))
    windows = model.windows((clip, RATE), seconds=1.0, hop=0.5)
    assert windows.end.tolist() == [1.0, 1.5, 2.0, 2.5, 3.0, 3.3]
    for start, end, vector in zip(*windows, strict=True):
        np.testing.assert_allclose(vector, theirs[0](clip[round(start * RATE) : round(end * RATE)]), atol=1e-5)


def test_a_vector_has_the_same_bits_alone_in_a_list_and_again(model):
    clips = [(noise(samples, samples), RATE) for samples in (500, 16_000, 40_000, 9_000, 16_000)]
    together = model.embed_audio(clips)
    np.testing.assert_array_equal(together, np.concatenate([model.embed_audio([clip]) for clip in clips]))
    np.testing.assert_array_equal(together[::-1], model.embed_audio(clips[::-1]))


def test_probabilities_are_those_of_transformers(model, folder, theirs):
    clip = noise(9_000)
    clap = transformers.ClapModel.from_pretrained(folder)
    inputs = transformers.ClapProcessor.from_pretrained(folder)(
        audio=[clip], text=["a dog", "the rain"], sampling_rate=RATE, padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        expected = clap.eval()(**inputs).logits_per_audio.softmax(dim=-1)[0]
    (found,) = model.classify([(clip, RATE)], ["a dog", "the rain"], template="plain")
    np.testing.assert_allclose([found["a dog"], found["the rain"]], expected, atol=1e-5)


def test_it_says_what_it_is(model):
    assert isinstance(model, EmbeddingModel)
    assert (model.sample_rate, model.max_seconds, model.embed_dim, model.encoder.max_tokens) == (RATE, 1.0, 16, 64)
    assert repr(model).startswith("DualEncoder(family='ClapModel', id=")


def test_the_id_is_that_of_the_content(model, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert load_model(copy).model_id == model.model_id
    transformers.ClapModel.from_pretrained(folder).save_pretrained(copy)
    transformers.ClapProcessor.from_pretrained(folder).save_pretrained(copy)
    assert load_model(copy).model_id == model.model_id
    settings = json.loads((copy / "processor_config.json").read_text())
    settings["feature_extractor"]["padding"] = "pad"
    (copy / "processor_config.json").write_text(json.dumps(settings))
    assert load_model(copy).model_id != model.model_id
    other = save_random_clap(tmp_path, tiny=True, seed=1)
    assert load_model(other).model_id != model.model_id


def test_threads_of_pytorch_are_left_as_they_were(model):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    model.embed_audio([(noise(9_000), RATE)] * 3)
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_without_the_layers_of_onednn_the_vectors_are_the_same(model, folder, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("this build has no oneDNN")

    clip, packed = (noise(12_000), RATE), model.embed_audio([(noise(12_000), RATE)])
    assert "PackedLinear" in {type(module).__name__ for module in model.encoder._model.modules()}
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", broken)
    plain = load_model(folder)
    assert "PackedLinear" not in {type(module).__name__ for module in plain.encoder._model.modules()}
    np.testing.assert_allclose(plain.embed_audio([clip]), packed, atol=1e-6)


def test_a_model_is_pickled_by_its_name(model):
    again = pickle.loads(pickle.dumps(model))
    clip = (noise(5_000), RATE)
    np.testing.assert_array_equal(again.embed_audio([clip]), model.embed_audio([clip]))


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_model_answers_in_a_process_that_was_forked_after_its_first_use(model):
    clip = (noise(5_000), RATE)
    expected = model.embed_audio([clip, clip])
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(
        target=lambda: sender.send(model.embed_audio([clip, clip])), daemon=True
    )
    child.start()
    assert receiver.poll(60), "the forked process does not answer"
    np.testing.assert_array_equal(receiver.recv(), expected)
    child.join(10)


@pytest.mark.parametrize("missing", ["model.safetensors", "processor_config.json"])
def test_a_folder_that_is_not_complete(folder, tmp_path, missing):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / missing).unlink()
    with pytest.raises(OtherModelError, match="is not a ClapModel that transformers can read") as caught:
        load_model(copy)
    assert "\n" not in str(caught.value)


def test_the_commands(folder, theirs, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("SLAP_MODEL", raising=False)
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for number, samples in enumerate((4_000, 16_000, 40_000)):
        soundfile.write(sounds / f"{number}.wav", noise(samples, number), RATE, subtype="FLOAT")
    (sounds / "broken.wav").write_bytes(b"RIFF")
    output, name = tmp_path / "vectors.npz", str(folder)
    assert main(["embed", str(sounds), "--output", str(output), "--model", name]) == 1
    with np.load(output) as stored:
        np.testing.assert_allclose(stored["embeddings"][0], theirs[0](noise(4_000)), atol=1e-5)
        assert len(stored["names"]) == 3
    assert main(["classify", str(sounds), "--labels", "dog,rain", "--model", name, "--json"]) == 1
    assert main(["index", str(sounds), "--model", name]) == 1
    capsys.readouterr()
    assert main(["search", "a dog", "--index", str(sounds), "--model", name, "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert len(hits) > 3  # the longest has several moments
    assert main(["search", "--audio", str(sounds / "1.wav"), "--index", str(sounds), "--model", name, "-k", "1"]) == 0
    assert capsys.readouterr().out.startswith(" 1.000")
    assert main(["caption", str(sounds), "--model", name]) == 2
    assert "has no caption decoder" in capsys.readouterr().err
    assert main(["frames", str(sounds), "--output", str(tmp_path / "frames"), "--model", name]) == 2
    assert "no features over time" in capsys.readouterr().err


def test_evaluation_and_its_table(folder, train_data, tmp_path, capsys):
    output = tmp_path / "results.json"
    data = f"scenes={train_data / 'scenes'}:test"
    assert main(["evaluate", str(folder), "--data", data, "--output", str(output), "--setting", "zero-shot"]) == 0
    results = json.loads(output.read_text())
    assert results["retrieval"]["scenes"]["n_clips"] == 8
    assert results["model"]["name"] == f"ClapModel {folder.name}"
    assert main(["table", str(output)]) == 0
    assert f"ClapModel {folder.name}" in capsys.readouterr().out


@pytest.mark.compile
def test_an_index_refuses_a_model_of_another_family(model, tmp_path):
    from slap_jax.data.tokenizer import load_tokenizer, train_tokenizer
    from tests.inference.tiny import CAPTIONS, tiny_config, tiny_run_params

    soundfile.write(tmp_path / "a.wav", noise(16_000), RATE)
    update_index(model, tmp_path, progress=False)
    train_tokenizer(CAPTIONS, tmp_path / "tokenizer.model", 64)
    config = tiny_config()
    assert config.model.embed_dim == model.embed_dim  # only the ID tells them apart
    ours = SlapModel(config, tiny_run_params(config), load_tokenizer(tmp_path / "tokenizer.model"))
    for refused in (lambda: search(ours, tmp_path, "a dog"), lambda: update_index(ours, tmp_path, progress=False)):
        with pytest.raises(SearchError, match=f"made with model {model.model_id}") as caught:
            refused()
        assert "\n" not in str(caught.value)
