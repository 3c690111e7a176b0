"""Pickling of models: their parameters as NumPy arrays and the bytes of the tokenizer, so that no file is needed."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.inference.compile_cache import use_compile_cache

Model = TypeVar("Model")


def host_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dicts of NumPy arrays."""
    return jax.tree.map(np.asarray, dict(params))


def unpickled_model(
    cls: Callable[..., Model],
    config: ConfigDict,
    params: Mapping[str, Any],
    tokenizer: tuple[str, bytes],
    device: str | None,
    source: str,
) -> Model:
    """Restores a pickled model, such as `slap_jax.inference.model.SlapModel`.

    Args:
        cls: constructor of the model.
        config: config of the export.
        params: from `host_params`.
        tokenizer: name of the file, whose suffix states the kind of tokenizer, and its content.
        device: as for the constructor.
        source: as for the constructor.
    """
    use_compile_cache()
    name, content = tokenizer
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / name
        path.write_bytes(content)
        return cls(config, params, load_tokenizer(path), device, source)
