"""What all passes of the towers share is computed once, and how often the towers run."""

import jax
import pytest

from slap_jax.optimizer import create_optimizer
from slap_jax.train_state import abstract_learner, create_state, graph_of
from slap_jax.train_step import make_loss
from tests.tiny import tiny_batch, tiny_config


def equations(jaxpr):
    """All equations of a program, of its loops and calls too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def traced(**settings):
    config = tiny_config()
    config.objectives.distillation.update(settings)
    state = jax.eval_shape(lambda: create_state(config, create_optimizer(config.optimizer, config.train.steps)))
    loss = make_loss(config, graph_of(abstract_learner(config)))
    return config, jax.make_jaxpr(loss)(state.params, state.teacher, tiny_batch(config), state.step).jaxpr


def test_the_front_end_runs_once_for_all_passes():
    config, jaxpr = traced()
    assert config.audio.dft == "auto"
    assert sum(equation.primitive.name == "fft" for equation in equations(jaxpr)) == 1


@pytest.mark.parametrize(("view", "passes"), [("separate", 3), ("shared", 2)])
def test_audio_towers_run_as_often_as_the_objectives_need(view, passes):
    config, jaxpr = traced(view=view)
    width = config.model.audio_encoder.width
    rows, length = config.data.rows, 4 * config.data.columns

    def is_audio_tower(equation) -> bool:
        return equation.primitive.name == "scan" and [v.aval.shape for v in equation.outvars] == [(rows, length, width)]

    assert sum(is_audio_tower(equation) for equation in equations(jaxpr)) == passes
