"""transformers loads the folder offline, by its own code, and gives our embeddings."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slap_jax.checkpoints.model_dir import export
from slap_jax.export.formats import export_model
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
    code = {"configuration_slap.py", "modeling_slap.py", "slap_torch.py"}
    assert names == {"config.json", "model.safetensors", "tokenizer.model"} | code
