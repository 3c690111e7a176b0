"""The fingerprint of an export: what its model made of the probes on the machine that wrote it."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from slap_jax.doctor.measure import Measures, measure
from slap_jax.export.safetensors import FINGERPRINT, ExportError, load_export

VERSION = 1
_DIGITS = 6


def write_fingerprint(directory: str | os.PathLike[str]) -> Measures:
    """Measures the model of an export directory and writes the outcome beside it; returns the measures."""
    measures = measure(load_export(directory))

    def rounded(values: Any) -> list[float]:
        return [round(float(value), _DIGITS) for value in values]

    content = {
        "version": VERSION,
        "platform": jax.default_backend(),
        "sounds": {name: rounded(vector) for name, vector in measures.sounds.items()},
        "texts": {text: rounded(vector) for text, vector in measures.texts.items()},
        "log_mel": {name: rounded(values) for name, values in measures.log_mel.items()},
    }
    path = Path(directory) / FINGERPRINT
    partial = path.with_name(f".{FINGERPRINT}.partial")
    partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return measures


def read_fingerprint(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns what is stored: name -> array under `sounds`, `texts` and `log_mel`, and the `platform` that computed it.

    None where there is no fingerprint.

    Raises:
        ExportError: the file is damaged, or of another version.
    """
    path = Path(directory) / FINGERPRINT
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ExportError(
                f"{path} has version {content['version']!r}; this slap_jax reads version {VERSION}: delete it, or "
                "write the export again"
            )
        return {
            "platform": content["platform"],
            **{
                kind: {name: np.array(values, np.float32) for name, values in content[kind].items()}
                for kind in ("sounds", "texts", "log_mel")
            },
        }
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete it, or write the export again"
        ) from None
