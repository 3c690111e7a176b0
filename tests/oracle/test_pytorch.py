"""The PyTorch file gives our embeddings, alone and padded, without slap_jax, and other frameworks' forms give its."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from slap_jax.checkpoints.model_dir import export
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.export.formats import export_model
from slap_jax.export.pytorch.model import load
from slap_jax.inference.captioner import Captioner
from slap_jax.inference.embedder import Embedder
from tests.export.seeded import TEXTS, seeded_clips, seeded_config, seeded_params
from tests.golden.make_pytorch_module import padded
from tests.inference.tiny import CAPTIONS, noise, tiny_tokenizer
from tests.tiny_modernbert import SIZES, write_tokenizer

pytestmark = pytest.mark.process

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["scratch", "modernbert"])
def exported(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    config = seeded_config(request.param)
    tokenizer = tiny_tokenizer(directory / "words.model")
    export(seeded_params(config), config, tokenizer.path, directory)
    return directory, config, tokenizer


def test_embeddings_of_mixed_durations_equal_ours(exported):
    directory, config, tokenizer = exported
    embedder, params, model = Embedder(config), seeded_params(config)["model"], load(directory)
    clips = [*seeded_clips(), noise(9, 7.1)]
    tokens = [tokenizer.encode(text, config.data.max_caption_tokens) for text in TEXTS]
    with torch.inference_mode():
        audio = model.embed_audio(*padded(clips, torch.float32)).numpy()
        text = model.embed_text(*padded(tokens, torch.int64)).numpy()
        ids, lengths = model.tokenize(list(TEXTS))
    assert np.abs(audio - embedder.audio(params, clips)).max() < TOLERANCE
    assert np.abs(text - embedder.text(params, tokens)).max() < TOLERANCE
    assert [row[:n] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)] == tokens


def test_a_clip_is_the_same_alone_and_padded(exported):
    model, clips = load(exported[0]), seeded_clips()
    waveforms, lengths = padded(clips, torch.float32)
    for row, clip in zip(waveforms, clips, strict=True):
        row[len(clip) :] = torch.nan  # samples after a clip are ignored
    with torch.inference_mode():
        together = model.embed_audio(waveforms, lengths)
        alone = torch.cat([model.embed_audio(torch.from_numpy(clip)[None]) for clip in clips])
        tokens = [[1, 5, 6, 2], [1, *range(4, 14), 2]]
        texts = model.embed_text(*padded(tokens, torch.int64))
        text = model.embed_text(torch.tensor(tokens[:1]))
    assert (together - alone).abs().max() < 1e-6
    assert (texts[:1] - text).abs().max() < 1e-6


def test_captions_equal_ours(exported):
    directory, config, tokenizer = exported
    params, model, clips = seeded_params(config), load(directory), seeded_clips()
    captioner = Captioner(Embedder(config), config.data.max_caption_tokens)
    ours = captioner(params["model"], params["objectives"]["captioning"]["decoder"], clips)
    found = model.caption(*padded(clips, torch.float32))
    assert np.array_equal(found, np.array(ours)[:, : found.shape[1]])
    known = [[i for i in ids if i < tokenizer.vocab_size] for ids in ours]  # the model has more ids than it has pieces
    assert model.decode_text(found) == [tokenizer.decode(ids) for ids in known]


def test_the_file_runs_without_slap_jax(exported, tmp_path):
    directory, _, _ = exported
    assert export_model(directory, "pytorch") == directory / "slap_torch.py"
    (tmp_path / "user.py").write_text(
        "import sys\n"
        "sys.modules['slap_jax'] = sys.modules['jax'] = None\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import numpy, torch, slap_torch\n"
        "model = slap_torch.load(sys.argv[1])\n"
        "vector = model.embed_audio(torch.linspace(-1, 1, 4000)[None])\n"
        "numpy.save(sys.argv[2], torch.cat([vector, model.embed_text(*model.tokenize(['rain falls']))]).detach())\n"
    )
    command = [sys.executable, str(tmp_path / "user.py"), str(directory), str(tmp_path / "vectors.npy")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model = load(directory)
    with torch.inference_mode():
        expected = [
            model.embed_audio(torch.linspace(-1, 1, 4000)[None]),
            model.embed_text(*model.tokenize(["rain falls"])),
        ]
    assert np.abs(np.load(tmp_path / "vectors.npy") - torch.cat(expected).numpy()).max() < 1e-6


def test_a_vocabulary_in_json_gives_our_ids_and_texts(tmp_path):
    config = seeded_config("modernbert")
    write_tokenizer(tmp_path, CAPTIONS, SIZES["vocab_size"])
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    ids = {f"{name}_id": getattr(tokenizer, name) for name in ("pad", "bos", "eos")}
    config.model.update(vocab_size=tokenizer.vocab_size, **ids)
    model = load(export(seeded_params(config), config, tokenizer.path, tmp_path / "export"))
    texts = ["a dog barks", "rain [SEP] falls", "qqq"]
    ids, lengths = model.tokenize(texts)
    found = [row[:n] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)]
    assert found == [tokenizer.encode(text, config.data.max_caption_tokens) for text in texts]
    assert model.decode_text(ids) == [tokenizer.decode(row) for row in found]
    written = model.caption(torch.from_numpy(noise(0, 0.5))[None])
    ours = Captioner(Embedder(config), config.data.max_caption_tokens)
    params = seeded_params(config)
    expected = ours(params["model"], params["objectives"]["captioning"]["decoder"], [noise(0, 0.5)])
    assert written[0].tolist() == expected[0][: written.shape[1]]


def test_autocast_leaves_the_front_end_in_float32(exported):
    model, clip = load(exported[0]), torch.from_numpy(noise(3, 0.6))[None]
    with torch.inference_mode():
        exact = model.log_mel(torch.nn.functional.pad(clip, (0, -clip.shape[1] % model.per_column)))
        with torch.autocast("cpu", torch.bfloat16):
            cast = model.log_mel(torch.nn.functional.pad(clip, (0, -clip.shape[1] % model.per_column)))
            vector = model.embed_audio(clip)
        assert torch.equal(exact, cast)
        assert vector.dtype == torch.float32 and (vector * model.embed_audio(clip)).sum() > 0.98


def test_gradients_reach_every_weight_but_the_decoder_s(exported):
    model = load(exported[0]).train()
    audio, text = model(*padded(seeded_clips()[:2], torch.float32), *model.tokenize(["rain falls", "a dog barks"]))
    torch.nn.functional.cross_entropy(model.scale() * audio @ text.T, torch.arange(2)).backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert all(name.startswith("decoder.") for name in without)


def test_wrong_inputs_are_reported(exported):
    model = load(exported[0])
    for waveform in (torch.zeros(16_000), torch.zeros(1, 1, 16_000), torch.zeros(1, 0), torch.ones(1, 99).short()):
        with pytest.raises(ValueError, match=r"expected float \[clips, samples\], .* mono at 16000 Hz, full scale 1"):
            model.embed_audio(waveform)
    with pytest.raises(ValueError, match=r"found one string: write \[text\]"):
        model.tokenize("rain falls")  # not a text for each letter


def test_wrong_files_are_reported(exported, tmp_path):
    directory = shutil.copytree(exported[0], tmp_path / "export")
    path = directory / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format_version": 9}))
    with pytest.raises(ValueError, match="version 9; this file reads 'slap_jax' versions"):
        load(directory)
    content["config"]["model"]["text_encoder"]["kind"] = "bert"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"text_encoder.kind is 'bert'; expected 'scratch' or 'modernbert'"):
        load(directory)
