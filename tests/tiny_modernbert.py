"""A tiny ModernBERT in a folder with the layout of Hugging Face: config.json, model.safetensors, tokenizer.json."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import save_file

SIZES: dict[str, Any] = {
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160_000.0,
    "hidden_size": 16,
    "intermediate_size": 24,
    "local_attention": 8,
    "local_rope_theta": 10_000.0,
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "vocab_size": 280,
}
SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]  # the last ids, in this order
IDS = {token: SIZES["vocab_size"] - len(SPECIAL) + index for index, token in enumerate(SPECIAL)}
NAMES = {"bos": "[CLS]", "cls": "[CLS]", "eos": "[SEP]", "sep": "[SEP]", "pad": "[PAD]"}


def write_tokenizer(directory: Path, captions: Iterable[str], vocab_size: int) -> None:
    """Trains byte-level BPE with ModernBERT's special tokens after the pieces; raises if there are too few captions."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    _set(tokenizer, normalizer=normalizers.NFC(), decoder=decoders.ByteLevel())
    _set(tokenizer, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    assert tokenizer.get_vocab_size() == vocab_size, "more or longer captions are needed"
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    _set(tokenizer, post_processor=processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends))
    tokenizer.enable_truncation(8_192)
    tokenizer.save(str(directory / "tokenizer.json"))


def _set(tokenizer: Any, **attributes: Any) -> None:
    """The stubs of the package declare these attributes without setters."""
    for name, value in attributes.items():
        setattr(tokenizer, name, value)


def random_weights(sizes: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Returns weights with the names and shapes of the file, including the head for masked tokens."""
    generator = np.random.default_rng(seed)
    width, hidden = sizes["hidden_size"], sizes["intermediate_size"]
    shapes = {
        "model.embeddings.tok_embeddings.weight": (sizes["vocab_size"], width),
        "model.embeddings.norm.weight": (width,),
        "model.final_norm.weight": (width,),
        "head.dense.weight": (width, width),
        "head.norm.weight": (width,),
        "decoder.bias": (sizes["vocab_size"],),
    }
    for index in range(sizes["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        shapes |= {f"{layer}.attn_norm.weight": (width,)} if index else {}
        shapes |= {
            f"{layer}.attn.Wqkv.weight": (3 * width, width),
            f"{layer}.attn.Wo.weight": (width, width),
            f"{layer}.mlp_norm.weight": (width,),
            f"{layer}.mlp.Wi.weight": (2 * hidden, width),
            f"{layer}.mlp.Wo.weight": (width, hidden),
        }
    return {name: generator.normal(0.0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def write_folder(directory: Path, captions: Iterable[str], **changes: Any) -> Path:
    """Writes the three files; `changes` of `config.json`."""
    described = {"architectures": ["ModernBertForMaskedLM"], "model_type": "modernbert", "norm_eps": 1e-5} | SIZES
    described |= {"hidden_activation": "gelu", "norm_bias": False, "attention_bias": False, "mlp_bias": False}
    described |= {f"{name}_token_id": IDS[token] for name, token in NAMES.items()} | changes
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(described, indent=2))
    save_file(random_weights(described), directory / "model.safetensors")
    write_tokenizer(directory, captions, described["vocab_size"])
    return directory


def use_modernbert(config: ConfigDict, folder: Path) -> ConfigDict:
    """Sets the settings of `docs/modernbert.md` for a folder of these sizes."""
    config.data.tokenizer = str(folder / "tokenizer.json")
    config.init_text_from = str(folder)
    config.model.update(vocab_size=SIZES["vocab_size"], pad_id=IDS["[PAD]"], bos_id=IDS["[CLS]"], eos_id=IDS["[SEP]"])
    config.model.text_encoder.update(
        kind="modernbert",
        layers=SIZES["num_hidden_layers"],
        heads=SIZES["num_attention_heads"],
        width=SIZES["hidden_size"],
        mlp_width=SIZES["intermediate_size"],
        locals_per_global=SIZES["global_attn_every_n_layers"] - 1,
        local_window=SIZES["local_attention"] // 2,
        rope_base=SIZES["global_rope_theta"],
        rope_base_local=SIZES["local_rope_theta"],
    )
    return config
