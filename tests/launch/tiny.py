"""The tiny config, contrastive, as a config file: `--config tests/launch/tiny.py:data=DIR,steps=20`."""

from ml_collections import ConfigDict

from slap_jax.config.files import parse_arg
from tests.tiny import tiny_config


def get_config(arg: str | None = None) -> ConfigDict:
    args = parse_arg(arg, data="data", steps=20)
    # Every process compiles the program: with one objective it is a third as large.
    config = tiny_config(args.data, distillation=0.0, captioning=0.0)
    config.train.steps = args.steps
    config.metrics.tensorboard = False
    return config
