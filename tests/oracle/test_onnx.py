"""The ONNX files give in onnxruntime what the PyTorch file gives, for any batch and length."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from slap_jax.export.formats import export_model
from slap_jax.export.safetensors import export
from tests.export.seeded import TEXTS, seeded_clips, seeded_config, seeded_params
from tests.inference.tiny import tiny_tokenizer

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
        (found,) = session.run(None, {"waveform": waveform, "lengths": lengths})
        first = 0 if len(clips) > 1 else next(i for i, c in enumerate(seeded_clips()) if np.array_equal(c, clips[0]))
        assert np.abs(found - GOLDEN["scratch_audio"][first : first + len(clips)]).max() < 1e-5


def test_samples_that_fill_whole_columns(exported):
    session = onnxruntime.InferenceSession(exported[3] / "audio.onnx")
    clip = seeded_clips()[2]
    waveform = np.zeros((1, 4 * 2_560), np.float32)
    waveform[0, : len(clip)] = clip
    (found,) = session.run(None, {"waveform": waveform, "lengths": np.array([len(clip)])})
    assert np.abs(found - GOLDEN["scratch_audio"][2]).max() < 1e-5


def test_texts(exported):
    kind, config, tokenizer, directory = exported
    session = onnxruntime.InferenceSession(directory / "text.onnx")
    rows = [tokenizer.encode(text, config.data.max_caption_tokens) for text in TEXTS]
    for chosen in (slice(None), slice(1, 2)):
        tokens, lengths = padded(rows[chosen], np.int64)
        (found,) = session.run(None, {"tokens": tokens, "lengths": lengths})
        assert np.abs(found - GOLDEN[f"{kind}_text"][chosen]).max() < 1e-5


def test_the_files_are_valid_and_name_their_axes(exported):
    directory = exported[3]
    for name, second in (("audio", "samples"), ("text", "tokens_of_text")):
        onnx.checker.check_model(directory / f"{name}.onnx", full_check=True)
        session = onnxruntime.InferenceSession(directory / f"{name}.onnx")
        assert [value.shape for value in session.get_inputs()] == [["batch", second], ["batch"]]
        assert [value.shape for value in session.get_outputs()] == [["batch", 16]]
