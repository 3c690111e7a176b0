"""Trains the tiny config in a process that a test can kill.

python -m tests.train_worker DATA RUN_DIR STEPS ['{"optimizer.learning_rate": 0.1, ...}']
"""

import json
import logging
import sys

import tests.conftest  # noqa: F401  (the same devices, flags and compilation cache as in the tests)
from slap_jax.train import main
from tests.tiny import tiny_config


def config_of(data: str, steps: int, overrides: str = "{}"):
    config = tiny_config(data)
    config.train.steps = steps
    config.update_from_flattened_dict(json.loads(overrides))
    return config


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO, force=True)
    logging.getLogger("absl").setLevel(logging.WARNING)
    sys.exit(main(config_of(sys.argv[1], int(sys.argv[3]), *sys.argv[4:]), sys.argv[2]))
