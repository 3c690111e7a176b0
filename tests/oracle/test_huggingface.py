"""transformers loads the folder offline, by its own code, and gives our embeddings."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import slap_jax
from slap_jax.checkpoints.model_dir import ExportError, export
from slap_jax.data.tokenizer import SPECIAL
from slap_jax.export.formats import export_model
from slap_jax.export.huggingface import CODE
from tests.export.seeded import TEXTS, seeded_clips, seeded_config, seeded_params
from tests.inference.tiny import tiny_tokenizer

pytestmark = pytest.mark.process

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pytorch_module.npz")
USER = """
import sys
sys.modules["slap_jax"] = sys.modules["jax"] = None
import numpy as np, torch
from transformers import AutoModel

folder, clips, lengths, texts = sys.argv[1], *map(np.load, sys.argv[2:5])
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
waveforms = torch.from_numpy(clips)
mask = torch.arange(clips.shape[1]) < torch.from_numpy(lengths)[:, None]
with torch.inference_mode():
    audio = model.get_audio_features(waveforms, mask)
    text = model.get_text_features(text=texts.tolist())
    ids, count = model.tokenize(texts.tolist())
    same = model.get_text_features(ids, torch.arange(ids.shape[1]) < count[:, None])
    output = model(waveforms, mask, text=texts.tolist())
    captions = model.caption(waveforms, mask)
assert torch.equal(text, same) and torch.equal(output.audio_embeds, audio)
np.savez(sys.argv[5], audio=audio, text=text, captions=captions, logits=output.logits_per_audio)
model.save_pretrained(sys.argv[6])
again = AutoModel.from_pretrained(sys.argv[6], trust_remote_code=True).eval()
with torch.inference_mode():
    assert torch.equal(again.get_audio_features(waveforms, mask), audio)
"""


@pytest.fixture(scope="module", params=["scratch", "modernbert"])
def used(request, tmp_path_factory):
    """What a process without slap_jax and without a network gets from the folder."""
    directory = tmp_path_factory.mktemp("export")
    config = seeded_config(request.param)
    tokenizer = tiny_tokenizer(directory / "words.model")
    export(seeded_params(config), config, tokenizer.path, directory)
    folder = shutil.copytree(export_model(directory, "huggingface"), directory / "elsewhere")
    clips = seeded_clips()
    waveforms = np.zeros((len(clips), max(map(len, clips))), np.float32)
    for row, clip in zip(waveforms, clips, strict=True):
        row[: len(clip)] = clip
    arrays = {"clips": waveforms, "lengths": np.array([len(clip) for clip in clips]), "texts": np.array(TEXTS)}
    for name, array in arrays.items():
        np.save(directory / f"{name}.npy", array)
    names = (folder, "clips.npy", "lengths.npy", "texts.npy", "results.npz", "saved")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(directory / "cache")}
    command = [sys.executable, "-c", USER, *(str(directory / name) for name in names)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return request.param, folder, tokenizer, np.load(directory / "results.npz")


def test_embeddings_equal_ours(used):
    kind, _, _, results = used
    assert np.abs(results["audio"] - GOLDEN["scratch_audio"]).max() < 1e-5
    assert np.abs(results["text"] - GOLDEN[f"{kind}_text"]).max() < 1e-5
    assert np.abs(results["logits"] - 20.0 * results["audio"] @ results["text"].T).max() < 1e-4


def test_captions_are_texts(used):
    kind, _, tokenizer, results = used
    assert any(results["captions"].tolist())
    if kind == "scratch":  # the golden file holds captions of this one
        ids = [[i for i in row if i < tokenizer.vocab_size] for row in GOLDEN["scratch_captions"].tolist()]
        assert results["captions"].tolist() == [tokenizer.decode(row) for row in ids]


def test_the_folder_is_complete(used):
    names = {path.name for path in used[1].iterdir()}
    settings = {"config.json", "preprocessor_config.json", "tokenizer_config.json"}
    assert names == {"README.md", "model.safetensors", "tokenizer.model", "slap_torch.py"} | settings | {*CODE}
    with pytest.raises(ExportError, match=r"wrote for transformers: load it with .*README\.md shows"):
        slap_jax.load(used[1])


CARD_USER = """
import json, os, re, sys
sys.modules["slap_jax"] = sys.modules["jax"] = None
import numpy as np, torch
os.chdir(sys.argv[1])
blocks = re.findall("```python\\n(.*?)```", open("README.md").read(), re.DOTALL)
space = {}
exec("\\n".join(blocks), space)
results, inputs, model, tokenizer = space["results"], space["inputs"], space["model"], space["processor"].tokenizer
texts = json.loads(sys.argv[2])
ids, lengths = model.tokenize(texts)
padded = tokenizer(texts, padding=True, return_tensors="pt")
assert torch.equal(padded["input_ids"], ids) and torch.equal(padded["attention_mask"].sum(dim=1), lengths)
long = space["processor"](audio=[space["samples"], space["samples"][:999]], sampling_rate=16_000)
with torch.inference_mode():
    batch = model.get_audio_features(**long)
    alone = model.get_audio_features(torch.from_numpy(space["samples"][None, :999]))
assert torch.allclose(batch[1:], alone, atol=1e-5)
space["processor"].save_pretrained("saved")
from transformers import AutoProcessor
again = AutoProcessor.from_pretrained("saved", trust_remote_code=True)
assert again.tokenizer(texts).input_ids == tokenizer(texts).input_ids
for call in (lambda: space["processor"](audio=[space["samples"]], sampling_rate=8_000), space["processor"]):
    try:
        call()
        sys.exit("no error")
    except ValueError as error:
        print(error)
print(json.dumps({"blocks": len(blocks), "captions": space["captions"],
                  "similarity": space["similarity"].tolist(), "results": results}))
"""


@pytest.mark.parametrize("tokenizer", ["tokenizer.model", "tokenizer.json"])
def test_the_code_of_the_card_runs_and_agrees_with_our_model(tmp_path, tokenizer):
    """The pipeline, the processor and the model, in a process without slap_jax and without a network."""
    config = seeded_config("scratch")
    if tokenizer == "tokenizer.json":
        words = word_tokenizer(tmp_path / "words.json", config)
    else:
        words = Path(tiny_tokenizer(tmp_path / "words.model").path)
    directory = export(seeded_params(config), config, words, tmp_path / "export")
    folder = export_model(directory, "huggingface")
    samples = seeded_clips()[0]
    soundfile.write(folder / "your_sound.wav", samples, 16_000, subtype="FLOAT")
    texts = ["a dog barks", "Rain, </s> [SEP] \u00e9 \u014b", "rain falls " * 100]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", CARD_USER, str(folder), json.dumps(texts)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *errors, last = done.stdout.splitlines()
    assert "the sampling rate is 8000; the model takes 16000 Hz" in errors[0] and "give text, audio" in errors[1]
    theirs, model = json.loads(last), slap_jax.load(directory)
    (ours,) = model.classify((samples, 16_000), ["dog", "cat", "rain"], template="the sound of {}")
    assert [result["label"] for result in theirs["results"]] == list(ours)
    assert [result["score"] for result in theirs["results"]] == pytest.approx(list(ours.values()), abs=1e-5)
    similarity = model.similarity(model.embed_audio((samples, 16_000)), model.embed_text(["a dog barks", "rain falls"]))
    assert np.abs(np.array(theirs["similarity"]) - similarity).max() < 1e-5
    assert theirs["blocks"] == 3 and len(theirs["captions"]) == 1


def word_tokenizer(path, config):
    """Writes a tokenizer.json of whole words with ModernBERT's special tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    special = [SPECIAL[name] for name in ("pad", "bos", "eos", "unk")]
    labels = "a dog barks rain falls the sound of cat"
    vocabulary = [*special, *labels.split(), *",.<>/[]", "s", "sep"]
    words = {word: index for index, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=SPECIAL["unk"]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(path))
    assert max(words.values()) < config.model.vocab_size
    return path
