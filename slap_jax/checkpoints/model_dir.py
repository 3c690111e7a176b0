"""The exported model: a directory with `model.safetensors`, `config.json` and a tokenizer, for inference."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from slap_jax.atomic import atomic_file
from slap_jax.config.exported import complete_exported, validate_exported
from slap_jax.config.rules import ConfigError
from slap_jax.errors import UserError
from slap_jax.params import flatten, unflatten

FORMAT = "slap_jax"

# Version 1 has three files, and the tokenizer is always tokenizer.model. Version 2 names the tokenizer file in
# config.json, stores data.max_seconds, and may add a model card and a fingerprint.
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.model"
TOKENIZER_JSON = "tokenizer.json"
FINGERPRINT, CARD = "fingerprint.json", "README.md"

# The parameters that inference needs. Teachers, prediction heads and prototypes are not exported.
_EXPORTED = ("model", "objectives/contrastive", "objectives/captioning/decoder", "objectives/classification/head")
_SECTIONS = ("audio", "model", "objectives", "data")  # of config
_CLASSES = ("label", "classes", "multi_label")  # of config.objectives.classification, if there is a head
# Settings of config.model that change how the vectors are computed but not, up to rounding, their values.
_COMPUTATION = ("compute_dtype", "attention", "remat", "scan_unroll")


class ExportError(UserError, ValueError):
    """An export directory that cannot be read or written."""


@dataclasses.dataclass(frozen=True)
class Export:
    """A model as stored in an export directory.

    Attributes:
        config: `audio`, `model`, `objectives.contrastive`, and `data.max_caption_tokens` and `data.max_seconds` of the
            run; exports of version 1 lack `data.max_seconds`.
        params: nested dict of fp32 NumPy arrays: `model`, and under `objectives` the contrastive scale and, if trained,
            the caption decoder and the classification head.
        tokenizer_path: SentencePiece's `tokenizer.model`, or `tokenizer.json`.
        step: number of updates the parameters received.
    """

    config: ConfigDict
    params: dict[str, Any]
    tokenizer_path: Path
    step: int


def export(
    params: Mapping[str, Any],
    config: ConfigDict,
    tokenizer_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    step: int = 0,
) -> Path:
    """Writes an export directory, replacing the files of an older export.

    The model card and the fingerprint of an older export are removed, because they describe another model.

    Args:
        params: the run's parameters, `{"model": ..., "objectives": ...}`, arrays on any device.
        config: the run's whole config.
        tokenizer_path: the tokenizer of the run.
        out_dir: created if missing.
        step: number of updates, for the record.

    Returns:
        The directory.

    Raises:
        ExportError: the tokenizer is missing, or the parameters have no `model`.
    """
    out_dir, tokenizer_path = Path(out_dir), Path(tokenizer_path)
    if not tokenizer_path.is_file():
        raise ExportError(f"tokenizer {tokenizer_path} is missing: an export needs the tokenizer of the run")
    if "model" not in params:
        raise ExportError(f"parameters hold {', '.join(params) or 'nothing'}; expected 'model' (and 'objectives')")
    tensors = {name: np.array(value, np.float32, order="C") for name, value in flatten(exported_params(params)).items()}
    exported = {
        "audio": config.audio.to_dict(),
        "model": config.model.to_dict(),
        "objectives": {"contrastive": config.objectives.contrastive.to_dict()},
        "data": {name: config.data[name] for name in ("max_caption_tokens", "max_seconds") if name in config.data},
    }
    if "classification" in params.get("objectives", {}):
        settings = config.objectives.classification
        exported["objectives"]["classification"] = {name: settings[name] for name in _CLASSES}
    tokenizer = TOKENIZER_JSON if tokenizer_path.suffix == ".json" else TOKENIZER
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "slap_jax_version": version("slap-jax"),
        "step": int(step),
        "tokenizer": tokenizer,
        "tokenizer_sha256": _sha256(tokenizer_path),
        "config": exported,
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as files:
        # The files appear in reverse order: config.json, which `load_export` reads first, appears last.
        text, copy, weights = (
            files.enter_context(atomic_file(out_dir / name)) for name in (CONFIG, tokenizer, WEIGHTS)
        )
        text.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(tokenizer_path, copy)
        save_file(tensors, weights, metadata={"format": FORMAT, "format_version": str(FORMAT_VERSION)})
        weights.chmod(copy.stat().st_mode)  # safetensors creates files that only their owner can read
        for stale in {FINGERPRINT, CARD, TOKENIZER, TOKENIZER_JSON} - {tokenizer}:
            (out_dir / stale).unlink(missing_ok=True)
    return out_dir


def exported_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a run that an export holds."""
    return unflatten(
        {
            name: value
            for name, value in flatten(params).items()
            if any(name.startswith(f"{part}/") for part in _EXPORTED)
        }
    )


def is_export(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory is an export, possibly one that lost its weights, rather than a run."""
    directory = Path(directory)
    if (directory / WEIGHTS).is_file():
        return True
    try:
        return "format_version" in json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def load_export(directory: str | os.PathLike[str]) -> Export:
    """Reads an export directory.

    Raises:
        ExportError: a file is missing or damaged, the format version is unknown, or the tokenizer belongs to another
            model.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ExportError(f"{directory} is not a directory; give one that `slap export` wrote")
    if (directory / "checkpoints").is_dir() and not (directory / WEIGHTS).is_file():
        raise ExportError(
            f"{directory} is a run, not an export: write one with `slap export {directory}`, then give "
            f"{directory / 'export'}"
        )
    description = _read_description(directory / CONFIG) if (directory / CONFIG).is_file() else {}
    tokenizer = description.get("tokenizer", TOKENIZER)  # version 1 does not name it
    missing = [name for name in (CONFIG, WEIGHTS, tokenizer) if not (directory / name).is_file()]
    if missing:
        raise ExportError(
            f"{directory} lacks {', '.join(missing)}; an export holds {CONFIG}, {WEIGHTS} and {tokenizer}: write it "
            "again with `slap export RUN_DIR`"
        )
    if description.get("tokenizer_sha256") != _sha256(directory / tokenizer):
        raise ExportError(
            f"{directory / tokenizer} is not the tokenizer that this model was trained with; write the directory "
            "again with `slap export RUN_DIR`"
        )
    try:
        tensors = load_file(directory / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ExportError(
            f"{directory / WEIGHTS} cannot be read ({error}); write it again with `slap export RUN_DIR`"
        ) from error
    return Export(
        config=description["config"],
        params=unflatten(tensors),
        tokenizer_path=directory / tokenizer,
        step=int(description.get("step", 0)),
    )


def check_shapes(params: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    """Compares nested dicts of arrays by name and shape.

    Raises:
        ExportError: names the first parameters that differ.
    """
    actual, target = flatten(params), flatten(expected)
    different = [
        f"{name}: found {_shape(actual.get(name))}, expected {_shape(target.get(name))}"
        for name in sorted({*actual, *target})
        if _shape(actual.get(name)) != _shape(target.get(name))
    ]
    if different:
        more = f", and {len(different) - 3} more" if len(different) > 3 else ""
        raise ExportError(
            f"{where} does not hold the parameters that its config describes: {'; '.join(different[:3])}{more}; export "
            "the run again"
        )


def model_id(config: ConfigDict, params: Mapping[str, Any], tokenizer: bytes) -> str:
    """Returns 12 hexadecimal digits that identify the vectors a model computes; an index of sounds stores them.

    Args:
        config: `audio`, `model` and `data` of an export.
        params: nested dict of fp32 arrays.
        tokenizer: content of the tokenizer file.
    """
    settings = {
        "audio": config.audio.to_dict(),
        "model": {name: value for name, value in config.model.to_dict().items() if name not in _COMPUTATION},
        "max_caption_tokens": config.data.max_caption_tokens,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(flatten(params).items()):
        array = np.asarray(value, np.float32)
        digest.update(f"{name} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    digest.update(tokenizer)
    return digest.hexdigest()[:12]


def _read_description(path: Path) -> dict[str, Any]:
    """Reads and validates the `config.json` of an export."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(description, dict) and description.get("model_type") == "slap":
            export = path.parent.resolve().parent
            there = f", here {export}" if is_export(export) else ""
            raise ExportError(
                f"{path.parent} is the folder that `slap export --format huggingface` wrote for transformers: load it "
                f"with transformers, as its {CARD} shows, or give the export that it was made from{there}"
            )
        kind, format_version = description["format"], description["format_version"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ExportError(
            f"{path} is not the description of an export ({type(error).__name__}: {error}); expected "
            "JSON with 'format' and 'format_version': write it again with `slap export RUN_DIR`"
        ) from None
    if kind != FORMAT or format_version not in READABLE_VERSIONS:
        raise ExportError(
            f"{path} has format {kind!r} version {format_version!r}; this slap_jax {version('slap-jax')} reads "
            f"{FORMAT!r} versions {READABLE_VERSIONS[0]} to {READABLE_VERSIONS[-1]}: export the run again, or install "
            "the version that wrote it"
        )
    config = description.get("config")
    missing = [name for name in _SECTIONS if not isinstance(config, dict) or name not in config]
    if missing:
        raise ExportError(
            f"{path} lacks config.{', config.'.join(missing)}: it was edited; write it again with `slap export RUN_DIR`"
        )
    try:
        completed = complete_exported(ConfigDict(config))
        validate_exported(completed)
    except ConfigError as error:
        raise ExportError(
            f"{path}: {error}. It was edited, or another version wrote it; write it again with `slap export RUN_DIR`"
        ) from None
    return description | {"config": completed}


def _shape(array: Any) -> str:
    return "nothing" if array is None else str(list(array.shape))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
