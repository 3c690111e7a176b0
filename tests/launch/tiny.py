"""The tiny config as a config file: `--config tests/launch/tiny.py:data=DIR,steps=20`."""

from ml_collections import ConfigDict

from slap_jax.config import parse_arg
from tests.tiny import tiny_config


def get_config(arg: str | None = None) -> ConfigDict:
    args = parse_arg(arg, data="data", steps=20)
    config = tiny_config(args.data)
    config.train.steps = args.steps
    config.metrics.tensorboard = False
    return config
