"""The exported model: a directory of `model.safetensors`, `config.json` and a tokenizer, for inference.

A short name of a model by its content: what an index of sounds or an evaluation notes down.

Packages that only some formats need.
"""

import dataclasses
import hashlib
import importlib.util
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

from slap_jax.config.rules import ConfigError
from slap_jax.config.validate import validate_exported
from slap_jax.errors import UserError
from slap_jax.params import flatten, unflatten

FORMAT = "slap_jax"

# 1: three files, the vocabulary always tokenizer.model. 2: the description names the vocabulary's file and holds
# data.max_seconds; a model card and a fingerprint may lie beside.
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.model"
TOKENIZER_JSON = "tokenizer.json"
FINGERPRINT, CARD = "fingerprint.json", "README.md"

# What inference needs; teachers, prediction heads and prototypes stay behind.
_EXPORTED = ("model", "objectives/contrastive", "objectives/captioning/decoder", "objectives/classification/head")
_SECTIONS = ("audio", "model", "objectives", "data")  # of config
_CLASSES = ("label", "classes", "multi_label")  # of config.objectives.classification, where there is a head


class ExportError(UserError, ValueError):
    """An export directory that cannot be read or written; the message names the file and what to do."""


@dataclasses.dataclass(frozen=True)
class Export:
    """A model as its export directory holds it.

    Attributes:
        config: `audio`, `model`, `objectives.contrastive`, and `data.max_caption_tokens` and `data.max_seconds` of the
            run; exports of version 1 lack `data.max_seconds`.
        params: nested dict of fp32 NumPy arrays: `model`, and under `objectives` the contrastive scale and, if they
            were trained, the caption decoder and the classification head.
        tokenizer_path: the vocabulary: SentencePiece's `tokenizer.model`, or `tokenizer.json`.
        step: updates that the parameters had.
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
    """Writes an export directory, replacing the files of an older one there.

    What was derived from an older model there, its card and its fingerprint, is removed.

    Args:
        params: the run's parameters, `{"model": ..., "objectives": ...}`, arrays on any device.
        config: the run's whole config.
        tokenizer_path: the vocabulary that the run used.
        out_dir: created if need be.
        step: updates done, for the record.

    Returns:
        The directory.

    Raises:
        ExportError: the tokenizer is missing, or there is no `model` among the parameters.
    """
    out_dir, tokenizer_path = Path(out_dir), Path(tokenizer_path)
    if not tokenizer_path.is_file():
        raise ExportError(f"tokenizer {tokenizer_path} is missing: an export needs the vocabulary of the run")
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
    vocabulary = TOKENIZER_JSON if tokenizer_path.suffix == ".json" else TOKENIZER
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "slap_jax_version": version("slap-jax"),
        "step": int(step),
        "tokenizer": vocabulary,
        "tokenizer_sha256": _sha256(tokenizer_path),
        "config": exported,
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    # Each file appears whole or not at all; the config, which `load_export` reads first, appears last.
    weights, copy, text = (out_dir / f".{name}.partial" for name in (WEIGHTS, vocabulary, CONFIG))
    save_file(tensors, weights, metadata={"format": FORMAT, "format_version": str(FORMAT_VERSION)})
    shutil.copyfile(tokenizer_path, copy)
    for derived in {FINGERPRINT, CARD, TOKENIZER, TOKENIZER_JSON} - {vocabulary}:
        (out_dir / derived).unlink(missing_ok=True)
    text.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    weights.chmod(copy.stat().st_mode)  # safetensors makes files that only their owner may read
    for partial, name in ((weights, WEIGHTS), (copy, vocabulary), (text, CONFIG)):
        os.replace(partial, out_dir / name)
    return out_dir


def exported_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps of a run's parameters those that an export holds."""
    kept = {
        name: value for name, value in flatten(params).items() if any(name.startswith(part + "/") for part in _EXPORTED)
    }
    return unflatten(kept)


def is_export(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory is an export, be it one whose weights are missing, and not a run."""
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
        ExportError: a file is missing or damaged, another format version, or a tokenizer of another model.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ExportError(f"{directory} is not a directory; give one that `slap export` wrote")
    if (directory / "checkpoints").is_dir() and not (directory / WEIGHTS).is_file():
        raise ExportError(
            f"{directory} is a run, not an export: write one with `slap export {directory}`, then give "
            f"{directory / 'export'}"
        )
    description = _description(directory / CONFIG) if (directory / CONFIG).is_file() else {}
    vocabulary = description.get("tokenizer", TOKENIZER)  # version 1 does not name it
    missing = [name for name in (CONFIG, WEIGHTS, vocabulary) if not (directory / name).is_file()]
    if missing:
        raise ExportError(
            f"{directory} lacks {', '.join(missing)}; an export holds {CONFIG}, {WEIGHTS} and {vocabulary}: write it "
            "again with `slap export RUN_DIR`"
        )
    if description.get("tokenizer_sha256") != _sha256(directory / vocabulary):
        raise ExportError(
            f"{directory / vocabulary} is not the vocabulary that this model was trained with; write the directory "
            "again with `slap export RUN_DIR`"
        )
    try:
        tensors = load_file(directory / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ExportError(
            f"{directory / WEIGHTS} cannot be read ({error}); write it again with `slap export RUN_DIR`"
        ) from error
    return Export(
        config=ConfigDict(description["config"]),
        params=unflatten(tensors),
        tokenizer_path=directory / vocabulary,
        step=int(description.get("step", 0)),
    )


def _description(path: Path) -> dict[str, Any]:
    """Reads `config.json` of an export, if this code reads its format."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        kind, version = description["format"], description["format_version"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ExportError(
            f"{path} is not the description of an export ({type(error).__name__}: {error}); expected "
            "JSON with 'format' and 'format_version': write it again with `slap export RUN_DIR`"
        ) from None
    if kind != FORMAT or version not in READABLE_VERSIONS:
        raise ExportError(
            f"{path} has format {kind!r} version {version!r}; this slap_jax {version('slap-jax')} reads "
            f"{FORMAT!r} versions {READABLE_VERSIONS[0]} to {READABLE_VERSIONS[-1]}: export the run again, or install "
            "the version that wrote it"
        )
    config = description.get("config")
    missing = [name for name in _SECTIONS if not isinstance(config, dict) or name not in config]
    if missing:
        raise ExportError(
            f"{path} lacks config.{', config.'.join(missing)}: it was changed; write it again with "
            "`slap export RUN_DIR`"
        )
    try:
        validate_exported(ConfigDict(config))
    except ConfigError as error:
        raise ExportError(
            f"{path}: {error}. It was changed, or is of another version; write it again with `slap export RUN_DIR`"
        ) from None
    return description


def check_shapes(found: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    """Compares nested dicts of arrays by name and shape.

    Raises:
        ExportError: names the first parameters that differ.
    """
    have, want = flatten(found), flatten(expected)
    different = [
        f"{name}: found {_shape(have.get(name))}, expected {_shape(want.get(name))}"
        for name in sorted({*have, *want})
        if _shape(have.get(name)) != _shape(want.get(name))
    ]
    if different:
        more = f", and {len(different) - 3} more" if len(different) > 3 else ""
        raise ExportError(
            f"{where} does not hold the parameters that its config describes: {'; '.join(different[:3])}{more}; export "
            "the run again"
        )


def _shape(array: Any) -> str:
    return "nothing" if array is None else str(list(array.shape))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# How a model is computed; the vectors agree to rounding.
_COMPUTATION = ("compute_dtype", "attention", "remat", "scan_unroll")


def model_id(config: ConfigDict, params: Mapping[str, Any], tokenizer_path: str) -> str:
    """Returns 12 hexadecimal digits that change with whatever changes what vectors mean.

    Args:
        config: `audio`, `model` and `data` of an export.
        params: nested dict of fp32 arrays.
        tokenizer_path: the vocabulary's file.
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
    digest.update(Path(tokenizer_path).read_bytes())
    return digest.hexdigest()[:12]


def require_packages(purpose: str, extra: str, *names: str) -> None:
    """Checks that packages are installed, before any work is done.

    Args:
        purpose: what wants them, the start of the message.
        extra: of slap-jax, which installs them.
        names: as they are imported.

    Raises:
        ExportError: names the packages that are missing and the extra.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"{purpose} needs {', '.join(missing)}: pip install 'slap-jax[{extra}]'")
