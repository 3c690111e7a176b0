"""One tiny dataset and vocabulary for all data tests."""

from pathlib import Path

import pytest

from slap_jax.data.tokenizer import Tokenizer
from tests.data import tiny_data


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data.tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny_data.tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))
