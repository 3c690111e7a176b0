"""The programs run where slap_jax cannot be imported, for any batch and length, and lower for every platform."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slap_jax.checkpoints.model_dir import ExportError, export, load_export
from slap_jax.export.stablehlo import write_stablehlo
from tests.export.seeded import TEXTS, seeded_clips, seeded_config, seeded_params
from tests.inference.tiny import tiny_tokenizer

pytestmark = pytest.mark.compile

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pytorch_module.npz")
# The code of a user without slap_jax; docs/export.md shows the same lines.
RUNNER = """
import sys
sys.modules["slap_jax"] = None  # an import of it, or of a part, raises
from pathlib import Path
import numpy as np
from jax import export
from safetensors.numpy import load_file

directory = Path(sys.argv[1])
weights = load_file(directory / "model.safetensors")
inputs = np.load(sys.argv[2])
results = {}
for name, case in (("audio", "clips"), ("text", "texts"), ("text", "first"), ("caption", "clips")):
    program = export.deserialize(bytearray((directory / "stablehlo" / f"{name}.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "tpu", "cuda"), program.platforms
    results[f"{name}_{case}"] = program.call(weights, inputs[case], inputs[f"{case}_lengths"])
np.savez(sys.argv[3], **results)
assert not any(name.startswith("slap_jax.") for name in sys.modules)
"""


def padded(rows, dtype) -> tuple[np.ndarray, np.ndarray]:
    filled = np.zeros((len(rows), max(map(len, rows))), dtype)
    for row, values in zip(filled, rows, strict=True):
        row[: len(values)] = values
    return filled, np.array([len(values) for values in rows], np.int32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stablehlo")
    config = seeded_config("scratch")
    tokenizer = tiny_tokenizer(directory / "words.model")
    export(seeded_params(config), config, tokenizer.path, directory)
    write_stablehlo(load_export(directory), directory)
    return directory, config, tokenizer


@pytest.mark.process
def test_runs_without_slap_jax(exported, tmp_path):
    directory, config, tokenizer = exported
    clips = seeded_clips()[:3]
    tokens = [tokenizer.encode(text, config.data.max_caption_tokens) for text in TEXTS]
    cases = {"clips": padded(clips, np.float32)}
    cases["clips"][0][0, len(clips[0]) :] = np.nan  # samples after a clip are ignored
    cases |= {"texts": padded(tokens, np.int32), "first": padded(tokens[:1], np.int32)}
    arrays: dict[str, Any] = {case: values for case, (values, _) in cases.items()}
    arrays |= {f"{case}_lengths": lengths for case, (_, lengths) in cases.items()}
    np.savez(tmp_path / "inputs.npz", **arrays)
    paths = [str(directory), str(tmp_path / "inputs.npz"), str(tmp_path / "results.npz")]
    done = subprocess.run([sys.executable, "-c", RUNNER, *paths], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = np.load(tmp_path / "results.npz")
    assert np.abs(results["audio_clips"] - GOLDEN["scratch_audio"][:3]).max() < 2e-5
    assert np.abs(results["text_texts"] - GOLDEN["scratch_text"]).max() < 2e-5
    assert np.abs(results["text_first"] - GOLDEN["scratch_text"][:1]).max() < 2e-5
    assert np.array_equal(results["caption_clips"], GOLDEN["scratch_captions"][:3])


def test_the_description_says_what_programs_take(exported):
    directory, config, _ = exported
    programs = json.loads((directory / "stablehlo" / "programs.json").read_text())["programs"]
    assert set(programs) == {"audio", "text", "caption"}
    assert programs["audio"]["gives"] == f"float32[b,{config.model.embed_dim}]"
    assert programs["text"]["takes"][1] == "token ids int32 [b, n]"


def test_a_missing_serialisation_package_is_an_error(exported, monkeypatch):
    directory, _, _ = exported
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ExportError, match=r"needs flatbuffers: pip install 'slap-jax\[stablehlo\]'"):
        write_stablehlo(load_export(directory), directory)
