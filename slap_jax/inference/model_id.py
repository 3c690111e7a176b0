"""A short name of a model by its content: what an index of sounds or an evaluation notes down."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from slap_jax.paths import flatten

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
