"""Checks of the towers and the vocabulary of `config.model`."""

from typing import Protocol

from ml_collections import ConfigDict

from slap_jax.config_checks import check_choice, require


class Vocabulary(Protocol):
    """What is asked of a tokenizer here."""

    path: str
    vocab_size: int
    pad: int
    bos: int
    eos: int


def validate_towers(config: ConfigDict) -> None:
    """Requires that heads divide widths, super-blocks divide depths, and that special tokens are in the vocabulary."""
    model = config.model
    check_choice(config, "model.text_encoder.kind", ("scratch", "modernbert"))
    modernbert = model.text_encoder.kind == "modernbert"
    require(
        modernbert or config.init_text_from == "",
        f"config.init_text_from is {config.init_text_from!r}, the folder of a ModernBERT, but "
        f"config.model.text_encoder.kind is {model.text_encoder.kind!r}; write kind='modernbert'",
    )
    for name in ("audio_encoder", "text_encoder", "caption_decoder"):
        tower = model[name]
        require(
            tower.width % tower.heads == 0,
            f"config.model.{name}.width is {tower.width}, not a multiple of its heads={tower.heads}",
        )
        head_dim = tower.width // tower.heads
        multiple = 4 if name == "audio_encoder" else 2
        require(
            head_dim % multiple == 0,
            f"config.model.{name}: head size {tower.width}/{tower.heads}={head_dim} must be a multiple of {multiple}",
        )
        if "locals_per_global" not in tower:
            continue
        period, first = tower.locals_per_global + 1, int(modernbert and name == "text_encoder")
        wanted = f"1 + a multiple of {period}, as ModernBERT starts with a global layer"
        wanted = wanted if first else f"a multiple of {period}"
        require(
            tower.layers > first and (tower.layers - first) % period == 0,
            f"config.model.{name}.layers is {tower.layers}; with locals_per_global={tower.locals_per_global} "
            f"write {wanted}",
        )
    special = {f"{name}_id": model[f"{name}_id"] for name in ("pad", "bos", "eos")}
    found = ", ".join(f"{name}={value}" for name, value in special.items())
    require(
        len(set(special.values())) == 3 and all(0 <= value < model.vocab_size for value in special.values()),
        f"config.model has {found}; write three different ids below vocab_size={model.vocab_size}: 0, 1 and 2, or "
        "those of the tokenizer.json",
    )


def require_vocabulary(model: ConfigDict, tokenizer: Vocabulary) -> None:
    """Requires that `config.model` has room for a vocabulary and knows its special tokens.

    Raises:
        ConfigError: names the setting, what it is and what to write.
    """
    require(
        tokenizer.vocab_size <= model.vocab_size,
        f"config.model.vocab_size is {model.vocab_size}, but {tokenizer.path} has {tokenizer.vocab_size} pieces; write "
        f"vocab_size={tokenizer.vocab_size} or more",
    )
    for name in ("pad", "bos", "eos"):
        here, there = model[f"{name}_id"], getattr(tokenizer, name)
        require(
            here == there,
            f"config.model.{name}_id is {here}, but {tokenizer.path} has {there}; write config.model.{name}_id={there}",
        )
