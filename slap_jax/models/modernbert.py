"""Reads ModernBERT's weights from a local Hugging Face folder into the parameters of our text tower.

Source: Warner et al., "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder" (arXiv 2412.13663).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load_file

from slap_jax.errors import UserError
from slap_jax.params import unflatten

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# The defaults of transformers for keys that a config.json leaves out: ModernBERT-base.
DEFAULTS = {
    "vocab_size": 50_368,
    "hidden_size": 768,
    "intermediate_size": 1_152,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160_000.0,
    "local_rope_theta": 10_000.0,
}
# The only values that our layers implement.
FIXED = {
    "hidden_activation": "gelu",
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
}

Tensors = Mapping[str, Float[np.ndarray, "..."]]


class ModernBertError(UserError, ValueError):
    """A folder does not hold the ModernBERT that the config describes."""


def read_modernbert(directory: str | os.PathLike[str], model: ConfigDict) -> dict[str, Any]:
    """Reads the weights of a folder.

    Args:
        directory: folder with `config.json` and `model.safetensors`; the weights of a head are ignored.
        model: `config.model`, with the same sizes.

    Returns:
        The parameters of `TextEncoder`, a nested dict of fp32 arrays.

    Raises:
        ModernBertError: a file is missing or damaged, or the architecture or a size differs.
    """
    check_modernbert(directory, model)
    path = Path(directory) / WEIGHTS
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModernBertError(f"{path} cannot be read ({error}); download the file again") from error
    prefix = "model." if any(name.startswith("model.") for name in tensors) else ""
    return unflatten(_parameters({name.removeprefix(prefix): value for name, value in tensors.items()}, model, path))


def check_modernbert(directory: str | os.PathLike[str], model: ConfigDict) -> None:
    """Compares a folder's `config.json` with `config.model`, without reading the weights.

    Raises:
        ModernBertError: as for `read_modernbert`.
    """
    directory = Path(directory)
    missing = [name for name in (CONFIG, WEIGHTS) if not (directory / name).is_file()]
    if missing:
        problem = f"lacks {' and '.join(missing)}" if directory.is_dir() else "is not a directory"
        raise ModernBertError(
            f"config.init_text_from: {directory} {problem}; give a local folder with ModernBERT's {CONFIG}, {WEIGHTS} "
            "and tokenizer.json from Hugging Face"
        )
    path = directory / CONFIG
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        kind = described["model_type"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ModernBertError(f"{path} is not the config of a model ({type(error).__name__}: {error})") from None
    if kind != "modernbert":
        raise ModernBertError(f"{path} describes a {kind!r}; expected model_type 'modernbert'")
    for name, value in FIXED.items():
        if described.get(name, value) != value:
            raise ModernBertError(f"{path} has {name}={described[name]!r}; expected ModernBERT's {value!r}")
    _check_sizes(described, model, path)


def _check_sizes(described: Mapping[str, Any], model: ConfigDict, path: Path) -> None:
    tower = model.text_encoder
    values = DEFAULTS | {name: described[name] for name in DEFAULTS if name in described}
    # Newer files store the rotary bases by the kind of layer.
    ropes = described.get("rope_parameters") or {}
    for kind, name in (("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta")):
        rope = ropes.get(kind) or {}
        if rope.get("rope_type", "default") != "default":
            raise ModernBertError(f"{path} has rope_type={rope['rope_type']!r}; expected 'default'")
        values[name] = rope.get("rope_theta", values[name])
    pairs = {
        "vocab_size": (model.vocab_size, values["vocab_size"]),
        "text_encoder.layers": (tower.layers, values["num_hidden_layers"]),
        "text_encoder.heads": (tower.heads, values["num_attention_heads"]),
        "text_encoder.width": (tower.width, values["hidden_size"]),
        "text_encoder.mlp_width": (tower.mlp_width, values["intermediate_size"]),
        "text_encoder.locals_per_global": (tower.locals_per_global, _global_every(described, values, path) - 1),
        "text_encoder.local_window": (tower.local_window, values["local_attention"] // 2),
        "text_encoder.rope_base": (tower.rope_base, values["global_rope_theta"]),
        "text_encoder.rope_base_local": (tower.rope_base_local or tower.rope_base, values["local_rope_theta"]),
    }
    different = [f"{name}={theirs} (found {ours})" for name, (ours, theirs) in pairs.items() if ours != theirs]
    if different:
        raise ModernBertError(
            f"{path} describes another size than this config; write config.model with {', '.join(different)}"
        )


def _global_every(described: Mapping[str, Any], values: Mapping[str, Any], path: Path) -> int:
    """Returns n where every n-th layer is global; newer files list the kind of every layer."""
    kinds = described.get("layer_types")
    if not kinds:
        return values["global_attn_every_n_layers"]
    every = next((index for index in range(1, len(kinds)) if kinds[index] == "full_attention"), len(kinds))
    if kinds != ["sliding_attention" if index % every else "full_attention" for index in range(len(kinds))]:
        raise ModernBertError(
            f"{path} has layer_types={kinds}; expected full_attention first and then at regular intervals"
        )
    return every


def _parameters(tensors: Tensors, model: ConfigDict, path: Path) -> dict[str, np.ndarray]:
    """Returns the parameters by their paths in the text tower."""
    tower = model.text_encoder
    width, hidden, period = tower.width, tower.mlp_width, tower.locals_per_global + 1

    def tensor(name: str, *shape: int) -> np.ndarray:
        value = tensors.get(f"{name}.weight")
        if value is None or value.shape != shape:
            problem = "is missing" if value is None else f"has shape {list(value.shape)}"
            raise ModernBertError(
                f"{path}: {name}.weight {problem}; expected {list(shape)} by the {CONFIG} in the same folder"
            )
        return np.asarray(value, np.float32)

    def layer(index: int) -> dict[str, np.ndarray]:
        """Returns the parameters of one layer; the file has matrices as [outputs, inputs], and some stacked."""
        prefix = f"layers.{index}"
        query, key, value = np.split(tensor(f"{prefix}.attn.Wqkv", 3 * width, width), 3)
        gate, up = np.split(tensor(f"{prefix}.mlp.Wi", 2 * hidden, width), 2)
        parts = {
            "attention/query/kernel": query.T,
            "attention/key/kernel": key.T,
            "attention/value/kernel": value.T,
            "attention/out/kernel": tensor(f"{prefix}.attn.Wo", width, width).T,
            "mlp_norm/scale": tensor(f"{prefix}.mlp_norm", width),
            "mlp/gate/kernel": gate.T,
            "mlp/up/kernel": up.T,
            "mlp/down/kernel": tensor(f"{prefix}.mlp.Wo", width, hidden).T,
        }
        if index > 0:
            parts["attention_norm/scale"] = tensor(f"{prefix}.attn_norm", width)
        return parts

    parameters = {
        "embedding/table": tensor("embeddings.tok_embeddings", model.vocab_size, width),
        "embedding_norm/scale": tensor("embeddings.norm", width),
        "transformer/norm/scale": tensor("final_norm", width),
    }
    parameters |= {f"transformer/first/{name}": value for name, value in layer(0).items()}
    for offset in range(period):
        name = "global" if offset == period - 1 else f"local_{offset}"
        layers = [layer(index) for index in range(1 + offset, tower.layers, period)]
        parameters |= {
            f"transformer/blocks/layers/{name}/{part}": np.stack([values[part] for values in layers])
            for part in layers[0]
        }
    return parameters
