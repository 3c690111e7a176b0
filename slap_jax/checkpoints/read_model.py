"""Reads a model from a run directory: the parameters of a checkpoint with the run's config and tokenizer."""

import json
import os
from pathlib import Path

from ml_collections import ConfigDict

from slap_jax.checkpoints.hub import find_export
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
from slap_jax.checkpoints.run import has_checkpoint, restore_params
from slap_jax.config.exported import complete_exported, validate_exported
from slap_jax.config.rules import ConfigError

EXPORT_DIRECTORY = "export"  # inside a run directory


def read_model(directory: str | os.PathLike[str], step: int | None = None) -> Export:
    """Reads the model of a run directory (newest checkpoint, else its export) or of an export.

    Args:
        directory: a directory that `slap train` or `slap export` wrote; or the id "owner/name" or the URL of an export
            on the Hugging Face hub, see `slap_jax.checkpoints.hub.find_export`.
        step: step of a run's checkpoint; None for the newest.

    Returns:
        The model; `config` is the run's whole config if a run directory was given.

    Raises:
        ExportError: the directory is neither a run nor an export, or the tokenizer is missing.
        CheckpointError: there is no checkpoint of that step, or it is unreadable.
        HubError: the model cannot be downloaded.
    """
    directory = find_export(directory)
    if is_export(directory):
        return load_export(directory)
    config = run_config(directory)
    exported = directory / EXPORT_DIRECTORY
    if not has_checkpoint(directory) and exported.is_dir() and step is None:
        model = load_export(exported)
        return Export(config, model.params, model.tokenizer_path, model.step)
    params, meta = restore_params(directory, step)
    tokenizer = Path(config.data.tokenizer)
    copy = exported / (TOKENIZER_JSON if tokenizer.suffix == ".json" else TOKENIZER)
    if not tokenizer.is_file():
        if not copy.is_file():
            raise ExportError(
                f"tokenizer {tokenizer}, which the run {directory} was trained with, is missing; put it back, or "
                f"correct data.tokenizer in {directory / CONFIG}"
            )
        tokenizer = copy
    return Export(config, params, tokenizer, int(meta.get("step", 0)))


def export_run(
    run_dir: str | os.PathLike[str], out_dir: str | os.PathLike[str] | None = None, step: int | None = None
) -> Path:
    """Exports a run.

    Args:
        run_dir: a directory that `slap train` wrote.
        out_dir: None for `run_dir/export`.
        step: step of the checkpoint; None for the newest.

    Returns:
        The export directory.

    Raises:
        ExportError: not a run directory, or the tokenizer is missing.
        CheckpointError: there is no checkpoint of that step, or it is unreadable.
    """
    if is_export(run_dir):
        raise ExportError(f"{run_dir} is an export already; give the run directory that `slap train` wrote")
    model = read_model(run_dir, step)
    out_dir = Path(run_dir) / EXPORT_DIRECTORY if out_dir is None else Path(out_dir)
    return export(model.params, model.config, model.tokenizer_path, out_dir, model.step)


def run_config(run_dir: str | os.PathLike[str]) -> ConfigDict:
    """Reads the `config.json` of a run directory.

    Raises:
        ExportError: not a run directory, or the file is damaged or not the config of a run.
    """
    run_dir = Path(run_dir)
    path = run_dir / CONFIG
    if not path.is_file():
        problem = f"holds neither {WEIGHTS} nor {CONFIG}" if run_dir.is_dir() else "is not a directory"
        raise ExportError(f"{run_dir} {problem}; give a directory that `slap train` or `slap export` wrote")
    try:
        config = ConfigDict(json.loads(path.read_text(encoding="utf-8")))
        for section in ("audio", "model", "data", "objectives"):
            config[section].keys()
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ExportError(
            f"{path} is not the config of a run ({type(error).__name__}: {error}); restore it, or copy `config` from "
            "the `meta` of a checkpoint"
        ) from None
    config = complete_exported(config)
    try:
        validate_exported(config)
    except ConfigError as error:
        raise ExportError(f"{path}: {error}. It was edited, or another version wrote it; restore the file") from None
    return config
