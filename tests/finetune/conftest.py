"""A tiny trained model, as an export, for all tests of fine-tuning."""

from pathlib import Path

import jax
import numpy as np
import pytest

from slap_jax.checkpoints.model_dir import export
from slap_jax.training.optimizer import create_optimizer
from slap_jax.training.state import create_state
from tests.tiny import tiny_config


@pytest.fixture(scope="session")
def base_model(train_data, tmp_path_factory) -> Path:
    """Random parameters of `tests.tiny.tiny_config`, all objectives, exported."""
    config = tiny_config(str(train_data))
    transform = create_optimizer(config.optimizer, config.train.steps)
    params = jax.tree.map(np.asarray, jax.jit(lambda: create_state(config, transform))().params)
    return export(params, config, config.data.tokenizer, tmp_path_factory.mktemp("base") / "export")
