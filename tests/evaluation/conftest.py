"""The tiny model and vocabulary of tests/inference, and the data of the suites."""

from pathlib import Path

import pytest

from tests.evaluation.published_folders import prepare_published
from tests.inference.conftest import embedder, run_params, tokenizer

__all__ = ["embedder", "run_params", "tokenizer"]  # fixtures


@pytest.fixture(scope="session")
def published_data(tmp_path_factory) -> Path:
    """A tiny version of every dataset of the suites, prepared; not to be changed."""
    root = tmp_path_factory.mktemp("suites")
    return prepare_published(root / "published", root / "data")
