"""Writes modernbert.npz: a small ModernBertModel of transformers with random weights, and its hidden states.

pip install torch transformers && python tests/golden/make_modernbert.py
"""

import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import ModernBertConfig, ModernBertModel

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "cls_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
}


def random_model(layers: int, local_attention: int, seed: int = 0) -> ModernBertModel:
    """Returns a model whose attention is far from uniform and whose norms have an effect."""
    torch.manual_seed(seed)
    config = ModernBertConfig(num_hidden_layers=layers, local_attention=local_attention, initializer_range=0.3, **SIZES)
    model = ModernBertModel(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.uniform_(0.5, 1.5)
    return model


def hidden_states(model: ModernBertModel, tokens: np.ndarray, lengths: list[int]) -> np.ndarray:
    """Returns the last hidden states of padded captions, [captions, positions, width]."""
    mask = np.arange(tokens.shape[1])[None] < np.asarray(lengths)[:, None]
    with torch.no_grad():
        output = model(torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(np.int64)))
    return output.last_hidden_state.numpy()


def main() -> None:
    model = random_model(layers=7, local_attention=8)
    lengths = [40, 23, 5]
    tokens = np.random.default_rng(0).integers(3, SIZES["vocab_size"], (3, 40))
    stored = {"tokens": tokens, "lengths": lengths, "hidden": hidden_states(model, tokens, lengths)}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        stored["config"] = np.array((Path(folder) / "config.json").read_text())
        stored |= {f"weights/{name}": value for name, value in load_file(f"{folder}/model.safetensors").items()}
    described = json.loads(str(stored["config"]))
    assert described["layer_types"][:4] == [
        "full_attention",
        "sliding_attention",
        "sliding_attention",
        "full_attention",
    ]
    stored["transformers_version"] = np.array(version("transformers"))
    np.savez_compressed(Path(__file__).with_name("modernbert.npz"), **stored)


if __name__ == "__main__":
    main()
