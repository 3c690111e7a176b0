"""One tiny model and vocabulary for all tests of this folder; compiled programs are shared."""

from pathlib import Path
from typing import Any

import pytest

from slap_jax.data.tokenizer import Tokenizer
from slap_jax.inference.embedder import Embedder
from tests.evaluation.published_folders import prepare_published
from tests.inference.tiny import shared_embedder, shared_params, tiny_tokenizer


@pytest.fixture(scope="session")
def run_params() -> dict[str, Any]:
    """Parameters of a tiny run: model, caption decoder, scale."""
    return shared_params()


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """An embedder of the tiny config."""
    return shared_embedder()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Tokenizer:
    """The vocabulary of the tiny model."""
    return tiny_tokenizer(tmp_path_factory.mktemp("words") / "words.model")


@pytest.fixture(scope="session")
def published_data(tmp_path_factory) -> Path:
    """A tiny version of every dataset of the suites, prepared; not to be changed."""
    root = tmp_path_factory.mktemp("suites")
    return prepare_published(root / "published", root / "data")
