"""The training state: parameters, averaged teacher, optimiser and counters, and how the first one is created."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from slap_jax.models.slap import Slap
from slap_jax.objectives import build_objectives
from slap_jax.params import select


class Learner(nnx.Module):
    """Everything that is trained: the model, and the parameters that objectives of weight > 0 add to it."""

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        self.model = Slap(config, rngs=rngs)
        self.objectives = build_objectives(config, rngs=rngs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree of arrays; parameters are nested dicts, so that paths name them.

    Attributes:
        step: finished steps, skipped ones included.
        params: `{"model": ..., "objectives": ...}`, fp32.
        teacher: averaged copies of the parameters that an objective asked for.
        optimizer: optax's state.
        bad_steps: steps skipped in a row because a loss or gradient was not finite.
    """

    step: Int[Array, ""]
    params: dict[str, Any]
    teacher: dict[str, Any]
    optimizer: optax.OptState
    bad_steps: Int[Array, ""]


def create_state(config: ConfigDict, transform: optax.GradientTransformation) -> TrainState:
    """Creates the first state; call it under `jax.jit` with output shardings, or `jax.eval_shape`."""
    learner = Learner(config, rngs=nnx.Rngs(jax.random.fold_in(jax.random.key(config.seed), 0)))
    _, state = nnx.split(learner, nnx.Param)
    params = nnx.to_pure_dict(state)
    # The teacher starts as a copy, not as the same buffers: the step donates both.
    teacher = jax.tree.map(jnp.copy, select(params, teacher_paths(learner)))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(step=zero, params=params, teacher=teacher, optimizer=transform.init(params), bad_steps=zero)


def abstract_learner(config: ConfigDict) -> Learner:
    """Returns the learner with shapes in place of arrays."""
    return nnx.eval_shape(lambda: Learner(config, rngs=nnx.Rngs(0)))


def graph_of(module: nnx.Module) -> nnx.GraphDef:
    """Returns the module without its parameters; `nnx.merge(graph, params)` restores it."""
    graph, _ = nnx.split(module, nnx.Param)
    return graph


def teacher_paths(learner: Learner) -> tuple[str, ...]:
    """Returns the paths of which objectives need averaged copies, sorted and distinct."""
    paths = {path for objective in learner.objectives.values() for path in objective.teacher_parameters}
    return tuple(sorted(paths))
