"""Recomputes the contents of the golden files."""

import contextlib
import tempfile
from pathlib import Path

import jax

from slap_jax.config.files import read_config
from slap_jax.params import parameter_table
from slap_jax.training.optimizer import create_optimizer
from slap_jax.training.state import abstract_learner, create_state
from slap_jax.training.step import make_train_step
from tests.tiny import tiny_batch, tiny_config

ROOT = Path(__file__).parent.parent.parent
CONFIGS = ("demo", "corpus_cpu", "slap_small", "slap_base", "slap_base_modernbert", "slap_large")
STEPS = 20
CURVES = ("loss/total", "loss/contrastive", "loss/distillation", "loss/captioning", "gradient_norm")


def read(name: str):
    # Some configs read statistics of prepared data below the working directory, which a developer may have.
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        return read_config(str(ROOT / "configs" / f"{name}.py"), [])


def config_text(name: str) -> str:
    return read(name).to_json_best_effort(indent=1, sort_keys=True) + "\n"


def parameter_text(name: str) -> str:
    config = read(name)
    transform = create_optimizer(config.optimizer, config.train.steps)
    return parameter_table(jax.eval_shape(lambda: create_state(config, transform)).params)


def loss_curve() -> dict[str, list[float]]:
    """Returns the losses of 20 steps over three batches in turn."""
    config = tiny_config()
    config.train.steps = STEPS
    transform = create_optimizer(config.optimizer, STEPS)
    step = jax.jit(make_train_step(config, abstract_learner(config), transform))
    state = jax.jit(lambda: create_state(config, transform))()
    curve: dict[str, list[float]] = {name: [] for name in CURVES}
    for index in range(STEPS):
        state, metrics = step(state, tiny_batch(config, seed=index % 3))
        for name in CURVES:
            curve[name].append(round(float(metrics[name]), 5))
    return curve
