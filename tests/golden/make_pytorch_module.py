"""Writes pytorch_module.npz: the results of the PyTorch file with seeded models, which our models must reproduce.

pip install torch && PYTHONPATH=. JAX_PLATFORMS=cpu python tests/golden/make_pytorch_module.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from slap_jax.checkpoints.model_dir import export
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.export.pytorch.model import load
from tests.export.seeded import TEXTS, seeded_clips, seeded_config, seeded_params
from tests.inference.tiny import tiny_tokenizer

KINDS = ("scratch", "modernbert")


def padded(rows: list, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns rows of different lengths with zeros after them, and their lengths."""
    filled = torch.zeros(len(rows), max(map(len, rows)), dtype=dtype)
    for row, values in zip(filled, rows, strict=True):
        row[: len(values)] = torch.as_tensor(values)
    return filled, torch.tensor(list(map(len, rows)))


def outputs(kind: str, tokenizer: Tokenizer, directory: Path) -> dict[str, np.ndarray]:
    """Computes the results of one kind of text tower, and once those that do not depend on the kind."""
    config = seeded_config(kind)
    model = load(export(seeded_params(config), config, tokenizer.path, directory))
    waveforms, lengths = padded(seeded_clips(), torch.float32)
    tokens = [tokenizer.encode(text, config.data.max_caption_tokens) for text in TEXTS]
    with torch.inference_mode():
        values = {f"{kind}_text": model.embed_text(*padded(tokens, torch.int64)).numpy()}
        if kind == "scratch":
            features, valid = model.audio_features(waveforms, lengths)
            values["scratch_audio"] = model.embed_audio(waveforms, lengths).numpy()
            values["scratch_features"] = features[2][valid[2]].numpy()
            values["scratch_captions"] = model.caption(waveforms, lengths).numpy()
    return values


def main() -> None:
    """Writes the file."""
    values: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as directory:
        tokenizer = tiny_tokenizer(Path(directory) / "words.model")
        for kind in KINDS:
            values |= outputs(kind, tokenizer, Path(directory) / kind)
    np.savez_compressed(Path(__file__).with_name("pytorch_module.npz"), version=torch.__version__, **values)
    for name, value in values.items():
        print(name, value.shape, float(np.abs(value).max()))


if __name__ == "__main__":
    main()
