"""`slap export`: exports a run, or adds another form to an export."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from slap_jax.checkpoints.best import DIRECTORY as BEST
from slap_jax.checkpoints.hub import find_export
from slap_jax.checkpoints.model_dir import (
    CARD,
    FINGERPRINT,
    Export,
    ExportError,
    export,
    is_export,
    load_export,
    model_id,
)
from slap_jax.checkpoints.read_model import EXPORT_DIRECTORY, export_run, run_config
from slap_jax.export.packages import require_packages

FORMATS = ("safetensors", "stablehlo", "pytorch", "onnx", "huggingface")


def export_model(
    source: str | os.PathLike[str],
    format: str = "safetensors",
    out_dir: str | os.PathLike[str] | None = None,
    step: int | None = None,
    licence: str = "",
) -> Path:
    """Exports a run, or adds another form to an export.

    Args:
        source: run directory or export directory; or an export on the hub, see `slap_jax.checkpoints.hub.find_export`.
        format: one of `FORMATS`.
        out_dir: export directory to write; None for `export` in the run, or for the export itself.
        step: step of a run's checkpoint; None for the newest.
        licence: licence of the weights, for the model card; "" keeps an export's card.

    Returns:
        The export directory, or the file or directory of the format inside it.

    Raises:
        ExportError: the source is neither a run nor an export, the format is unknown, or a package that it needs is
            missing.
        CheckpointError: there is no checkpoint of that step, or it is unreadable.
    """
    if format not in FORMATS:
        raise ExportError(f"format is {format!r}; write one of {', '.join(FORMATS)}")
    _check_packages(format)
    source, given = find_export(source), source
    if out_dir is None and source != Path(given):
        raise ExportError(f"{given} is on the Hugging Face hub; add --output DIR, where the export is written to")
    if not is_export(source):
        directory = _export_of_run(source, out_dir, step, licence)
    else:
        directory = _export_of(source, None if out_dir is None else Path(out_dir), format, step, licence)
    return _write(format, directory)


def _check_packages(format: str) -> None:
    if format == "stablehlo":
        require_packages("--format stablehlo", "stablehlo", "flatbuffers")
    if format == "onnx":
        require_packages("--format onnx", "onnx", "torch", "onnx", "onnxscript")
    if format == "huggingface":
        require_packages("--format huggingface", "torch", "torch")


def _export_of_run(run_dir: Path, out_dir: str | os.PathLike[str] | None, step: int | None, licence: str) -> Path:
    """Exports a run with its model card and with the fingerprint that `slap doctor` compares to."""
    from slap_jax.doctor.findings import write_fingerprint
    from slap_jax.export.model_card import data_sources, write_card

    directory = export_run(run_dir, out_dir, step)
    config = run_config(run_dir)
    write_fingerprint(directory)
    write_card(
        load_export(directory),
        directory,
        sources=data_sources(config),
        evaluation=_evaluation(run_dir, directory),
        licence=licence,
        started_from=[_model_name(config[name]) for name in ("init_from", "init_text_from") if config.get(name)],
    )
    return directory


def _model_name(path: str) -> str:
    """Returns the name of a model without the directories above it; `export` or `best` alone would not name it."""
    cached = next((part for part in Path(path).parts if part.startswith("models--")), None)
    if cached:  # a snapshot in the cache of the hub, whose folder is a commit
        return cached.removeprefix("models--").replace("--", "/")
    parts = [part for part in Path(path).parts if part not in (EXPORT_DIRECTORY, BEST)]
    return parts[-1] if parts else Path(path).name


def refresh_card(run_dir: str | os.PathLike[str]) -> Path | None:
    """Writes the metrics of a run's `evaluation.json` into the card of its export, and keeps the rest of the card.

    Args:
        run_dir: directory of the run.

    Returns:
        The card; None if there is no export with a card, or if the evaluated step is not the exported one.

    Raises:
        ExportError: `evaluation.json`, the export or the head of the card is damaged.
    """
    from slap_jax.export.huggingface import HUGGINGFACE_DIRECTORY
    from slap_jax.export.model_card import change_metrics

    directory = Path(run_dir) / EXPORT_DIRECTORY
    cards = [path for path in (directory / CARD, directory / HUGGINGFACE_DIRECTORY / CARD) if path.is_file()]
    if not cards or not is_export(directory):
        return None
    evaluation = _evaluation(Path(run_dir), directory)
    if not evaluation:
        return None
    for path in cards:
        change_metrics(path, evaluation)
    return cards[0]


def _evaluation(run_dir: Path, directory: Path) -> dict[str, Any]:
    """Reads the results of a run; empty if it was not evaluated, or if they are about another model than the export."""
    path = run_dir / "evaluation.json"
    if not path.is_file():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} is damaged ({error}); delete it, or write it again with `slap evaluate`") from None
    if not isinstance(results, dict):
        return {}
    model = results.get("model")
    evaluated = model.get("model_id") if isinstance(model, dict) else None
    if evaluated is None:  # an older version wrote the results
        return results
    exported = load_export(directory)
    is_same = evaluated == model_id(exported.config, exported.params, exported.tokenizer_path.read_bytes())
    return results if is_same else {}


def _export_of(source: Path, out_dir: Path | None, format: str, step: int | None, licence: str) -> Path:
    """Returns the export itself, or a copy of it in the current version of the format."""
    if step is not None:
        raise ExportError(
            f"{source} is an export, which has a single step; --step chooses a checkpoint of a run directory"
        )
    if out_dir is None or out_dir.resolve() == source.resolve():
        if format == "safetensors" and not licence:
            raise ExportError(
                f"{source} is an export already; give the run directory that `slap train` wrote, another --format, or "
                "--output for a copy in the current format version"
            )
        if licence:
            _state_licence(load_export(source), source, licence)
        return source
    model = load_export(source)
    export(model.params, model.config, model.tokenizer_path, out_dir, model.step)
    for name in (CARD, FINGERPRINT):
        if (source / name).is_file():
            shutil.copyfile(source / name, out_dir / name)
    if licence or not (out_dir / CARD).is_file():
        _state_licence(model, out_dir, licence)
    return out_dir


def _state_licence(model: Export, directory: Path, licence: str) -> None:
    """Replaces the licence in the card and keeps its data and metrics; writes a card if there is none."""
    from slap_jax.export.model_card import change_licence, write_card

    if (directory / CARD).is_file():
        change_licence(directory, licence)
    else:
        write_card(model, directory, sources=None, evaluation={}, licence=licence)


def _write(format: str, directory: Path) -> Path:
    """Adds a format to an export directory."""
    if format == "stablehlo":
        from slap_jax.export.stablehlo import write_stablehlo

        return write_stablehlo(load_export(directory), directory)
    if format == "pytorch":
        from slap_jax.export.huggingface import write_pytorch

        load_export(directory)  # fails if the export is damaged
        return write_pytorch(directory)
    if format == "onnx":
        from slap_jax.export.onnx import write_onnx

        return write_onnx(directory)
    if format == "huggingface":
        from slap_jax.export.huggingface import write_huggingface

        return write_huggingface(directory)
    return directory
