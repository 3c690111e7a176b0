"""From a run directory to a model: its newest checkpoint's parameters, with the run's config and vocabulary."""

import json
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from slap_jax.checkpoints.model_dir import (
    CONFIG,
    TOKENIZER,
    TOKENIZER_JSON,
    WEIGHTS,
    Export,
    ExportError,
    export,
    is_export,
    load_export,
)
from slap_jax.checkpoints.run import restore_params

EXPORT_DIRECTORY = "export"  # inside a run directory


def read_model(directory: str | os.PathLike[str], step: int | None = None) -> Export:
    """Reads the model of a run directory (newest checkpoint, else its export) or of an export directory.

    Args:
        directory: that `slap train` or `slap export` wrote.
        step: of a run's checkpoint; None for the newest.

    Returns:
        The model; `config` is the run's whole config if a run directory was given.

    Raises:
        ExportError: neither kind of directory, or the vocabulary is missing.
        CheckpointError: no checkpoint of that step, or unreadable.
    """
    directory = Path(directory)
    if is_export(directory):
        return load_export(directory)
    if not (directory / CONFIG).is_file():
        found = "is not a directory" if not directory.is_dir() else f"holds neither {WEIGHTS} nor {CONFIG}"
        raise ExportError(f"{directory} {found}; give a directory that `slap train` or `slap export` wrote")
    config = run_config(directory / CONFIG)
    exported = directory / EXPORT_DIRECTORY
    tokenizer = Path(config.data.tokenizer)
    kept = exported / (TOKENIZER_JSON if tokenizer.suffix == ".json" else TOKENIZER)
    if not tokenizer.is_file() and kept.is_file():
        tokenizer = kept
    has_checkpoint = any(child.name.isdigit() for child in (directory / "checkpoints").glob("*"))
    if not has_checkpoint and exported.is_dir() and step is None:
        model = load_export(exported)
        return Export(config, model.params, model.tokenizer_path, model.step)
    params, meta = restore_params(directory, step)
    if not tokenizer.is_file():
        raise ExportError(
            f"tokenizer {tokenizer}, which the run {directory} was trained with, is missing; put it back, or correct "
            f"data.tokenizer in {directory / CONFIG}"
        )
    return Export(config, params, tokenizer, int(meta.get("step", 0)))


def export_run(
    run_dir: str | os.PathLike[str], out_dir: str | os.PathLike[str] | None = None, step: int | None = None
) -> Path:
    """Exports a run.

    Args:
        run_dir: that `slap train` wrote.
        out_dir: `run_dir/export` by default.
        step: of the checkpoint; None for the newest.

    Returns:
        The export directory.

    Raises:
        ExportError: not a run directory, or the vocabulary is missing.
        CheckpointError: no checkpoint of that step, or unreadable.
    """
    if is_export(run_dir):
        raise ExportError(f"{run_dir} is an export already; give the run directory that `slap train` wrote")
    model = read_model(run_dir, step)
    out_dir = Path(run_dir) / EXPORT_DIRECTORY if out_dir is None else Path(out_dir)
    return export(model.params, model.config, model.tokenizer_path, out_dir, model.step)


def run_config(path: Path) -> ConfigDict:
    """Reads the `config.json` of a run directory.

    Raises:
        ExportError: another file, or damaged.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config = ConfigDict(values)
        for section in ("audio", "model", "data", "objectives"):
            config[section]
        return config
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ExportError(f"{path} is not the config of a run ({type(error).__name__}: {error})") from None
