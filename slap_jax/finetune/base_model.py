"""What a new run takes over from the model that it starts from: its front end, its sizes and its vocabulary."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from slap_jax.config import default_config
from slap_jax.export.safetensors import CONFIG, WEIGHTS, is_export, load_export
from slap_jax.finetune.classes import FinetuneError


def base_config(model: str) -> ConfigDict:
    """Returns the default config with what the model of a run or an export fixes, and `init_from` set to it.

    Args:
        model: run directory, its `best`, or export directory.

    Raises:
        FinetuneError: no model there.
        ExportError: a damaged export.
    """
    directory = Path(model)
    config = default_config()
    if is_export(directory):
        export = load_export(directory)
        saved, tokenizer = export.config, str(export.tokenizer_path)
    else:
        saved, tokenizer = _of_run(directory)
    for section in ("audio", "spec_augment", "model", "objectives"):
        if section in saved:
            _take(config[section], saved[section], f"{directory / CONFIG}: {section}")
    for setting in ("max_caption_tokens", "max_seconds"):
        if setting in saved.data:
            config.data[setting] = saved.data[setting]
    config.data.tokenizer = tokenizer
    config.model.attention, config.model.remat = "auto", "none"
    config.init_from = model
    return config


def _of_run(directory: Path) -> tuple[ConfigDict, str]:
    """The config of a run with a checkpoint, and its vocabulary."""
    if not (directory / CONFIG).is_file():
        found = f"holds neither {WEIGHTS} nor {CONFIG}" if directory.is_dir() else "is not a directory"
        raise FinetuneError(f"{directory} {found}; give a directory that `slap train` or `slap export` wrote")
    try:
        saved = ConfigDict(json.loads((directory / CONFIG).read_text(encoding="utf-8")))
        tokenizer = saved.data.tokenizer
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise FinetuneError(
            f"{directory / CONFIG} is not the config of a run ({type(error).__name__}: {error})"
        ) from None
    if not any(child.name.isdigit() for child in (directory / "checkpoints").glob("*")):
        raise FinetuneError(f"{directory} has no checkpoint yet; train it first, or give another model")
    return saved, tokenizer


def _take(own: ConfigDict, saved: ConfigDict, where: str) -> None:
    """Takes over the settings that both have; a run of another version may lack some, or have others."""
    for name in own:
        if name not in saved:
            continue
        value: Any = saved[name]
        if isinstance(own[name], ConfigDict):
            _take(own[name], value, f"{where}.{name}")
            continue
        try:
            own[name] = tuple(value) if isinstance(own[name], tuple) else value
        except TypeError as error:
            raise FinetuneError(f"{where}.{name} is {value!r}: {error}; the model is of another version") from None
