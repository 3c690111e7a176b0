"""Trains the tiny config in a process that a test can kill: `python -m tests.train_worker DATA RUN_DIR STEPS`."""

import sys

import tests.conftest  # noqa: F401  (the same devices, flags and compilation cache as in the tests)
from slap_jax.train import main
from tests.tiny import tiny_config


def config_of(data: str, steps: int):
    config = tiny_config(data)
    config.train.steps = steps
    return config


if __name__ == "__main__":
    sys.exit(main(config_of(sys.argv[1], int(sys.argv[3])), sys.argv[2]))
