"""The ONNX files give in onnxruntime what the PyTorch file gives, for any batch and length."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from slap_jax.checkpoints.model_dir import export
from slap_jax.export.formats import export_model
from slap_jax.inference.captioner import Captioner
from slap_jax.inference.embedder import Embedder
from tests.export.seeded import TEXTS, seeded_clips, seeded_config, seeded_params
from tests.inference.tiny import tiny_tokenizer

pytestmark = pytest.mark.compile

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pytorch_module.npz")


@pytest.fixture(scope="module", params=["scratch", "modernbert"])
def exported(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    config = seeded_config(request.param)
    tokenizer = tiny_tokenizer(directory / "words.model")
    export(seeded_params(config), config, tokenizer.path, directory)
    return request.param, config, tokenizer, export_model(directory, "onnx")


def padded(rows, dtype):
    filled = np.zeros((len(rows), max(map(len, rows))), dtype)
    for row, values in zip(filled, rows, strict=True):
        row[: len(values)] = values
    return filled, np.array([len(values) for values in rows])


def test_audio_of_mixed_durations(exported):
    _, _, _, directory = exported
    session = onnxruntime.InferenceSession(directory / "audio.onnx")
    for clips in (seeded_clips(), *([clip] for clip in seeded_clips())):
        waveform, lengths = padded(clips, np.float32)
        (found,) = session.run(["vectors"], {"waveform": waveform, "lengths": lengths})
        first = 0 if len(clips) > 1 else next(i for i, c in enumerate(seeded_clips()) if np.array_equal(c, clips[0]))
        assert np.abs(found - GOLDEN["scratch_audio"][first : first + len(clips)]).max() < 1e-5


def test_samples_that_fill_whole_columns(exported):
    session = onnxruntime.InferenceSession(exported[3] / "audio.onnx")
    clip = seeded_clips()[2]
    waveform = np.zeros((1, 4 * 2_560), np.float32)
    waveform[0, : len(clip)] = clip
    (found,) = session.run(["vectors"], {"waveform": waveform, "lengths": np.array([len(clip)])})
    assert np.abs(found - GOLDEN["scratch_audio"][2]).max() < 1e-5


def test_texts(exported):
    kind, config, tokenizer, directory = exported
    session = onnxruntime.InferenceSession(directory / "text.onnx")
    rows = [tokenizer.encode(text, config.data.max_caption_tokens) for text in TEXTS]
    for chosen in (slice(None), slice(1, 2)):
        tokens, lengths = padded(rows[chosen], np.int64)
        (found,) = session.run(None, {"tokens": tokens, "lengths": lengths})
        assert np.abs(found - GOLDEN[f"{kind}_text"][chosen]).max() < 1e-5


def test_captions_equal_ours(exported):
    kind, config, tokenizer, directory = exported
    audio, decoder = (onnxruntime.InferenceSession(directory / f"{name}.onnx") for name in ("audio", "decoder"))
    params, most = seeded_params(config), config.data.max_caption_tokens
    decoder_params = params["objectives"]["captioning"]["decoder"]
    captioner = Captioner(Embedder(config), most)
    lengths_seen = set()
    for clips in (seeded_clips(), seeded_clips()[3:4]):
        waveform, lengths = padded(clips, np.float32)
        features, inside = audio.run(["features", "inside"], {"waveform": waveform, "lengths": lengths})
        tokens = np.full((len(clips), 1), tokenizer.bos)
        for _ in range(most):
            (scores,) = decoder.run(None, {"features": features, "inside": inside, "tokens": tokens})
            tokens = np.concatenate([tokens, scores.argmax(1)[:, None]], axis=1)
        for found, ours in zip(tokens[:, 1:].tolist(), captioner(params["model"], decoder_params, clips), strict=True):
            end = ours.index(tokenizer.eos) + 1 if tokenizer.eos in ours else most
            assert found[:end] == ours[:end]
            lengths_seen.add(end)
    assert kind == "modernbert" or min(lengths_seen) < most  # these weights end some captions early


def test_a_model_without_a_decoder_gets_no_file_of_one(tmp_path):
    config = seeded_config("scratch")
    tokenizer = tiny_tokenizer(tmp_path / "words.model")
    export({"model": seeded_params(config)["model"]}, config, tokenizer.path, tmp_path)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "decoder.onnx").write_bytes(b"of an older model")
    assert sorted(path.name for path in export_model(tmp_path, "onnx").iterdir()) == ["audio.onnx", "text.onnx"]


def test_the_files_are_valid_and_name_their_axes(exported):
    directory = exported[3]
    patches = [["batch", "patches", 32], ["batch", "patches"]]
    for name, takes, gives in (
        ("audio", [["batch", "samples"], ["batch"]], [["batch", 16], *patches]),
        ("text", [["batch", "tokens_of_text"], ["batch"]], [["batch", 16]]),
        ("decoder", [*patches, ["batch", "written"]], [["batch", 44]]),
    ):
        onnx.checker.check_model(directory / f"{name}.onnx", full_check=True)
        session = onnxruntime.InferenceSession(directory / f"{name}.onnx")
        assert [value.shape for value in session.get_inputs()] == takes
        assert [value.shape for value in session.get_outputs()] == gives
