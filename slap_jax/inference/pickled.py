"""Pickling of models: their parameters as NumPy arrays and the bytes of the tokenizer, so that no file is needed."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from slap_jax.data.tokenizer import Tokenizer, load_tokenizer


def host_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dicts of NumPy arrays."""
    return jax.tree.map(np.asarray, dict(params))


@contextlib.contextmanager
def tokenizer_from_bytes(name: str, content: bytes) -> Iterator[Tokenizer]:
    """Loads a tokenizer from the content of its file, which exists until the body ends.

    Args:
        name: name of the file, whose suffix says what it is.
        content: bytes of the file.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / name
        path.write_bytes(content)
        yield load_tokenizer(path)
