"""The training state: parameters, averaged teacher, optimiser; its creation and its sharding."""

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
    """All that is trained: the model, and what each objective adds to it."""

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Builds the model and the objectives whose weight is above 0."""
        self.model = Slap(config, rngs=rngs)
        self.objectives = build_objectives(config, rngs=rngs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree of arrays; parameters are nested dicts, so that paths name them.

    Attributes:
        step: updates done.
        params: `{"model": ..., "objectives": ...}`, fp32.
        teacher: the averaged copies, of those parameters only that an objective asked for.
        optimizer: optax's state.
        bad_steps: updates skipped in a row because a loss or gradient was not finite.
    """

    step: Int[Array, ""]
    params: dict[str, Any]
    teacher: dict[str, Any]
    optimizer: optax.OptState
    bad_steps: Int[Array, ""]


def abstract_learner(config: ConfigDict) -> Learner:
    """Returns the learner with shapes in place of arrays; `graph_of` it and parameters make the real one."""
    return nnx.eval_shape(lambda: Learner(config, rngs=nnx.Rngs(0)))


def graph_of(module: nnx.Module) -> nnx.GraphDef:
    """The module without its parameters: `nnx.merge(graph, params)` puts them back."""
    graph, _ = nnx.split(module, nnx.Param)
    return graph


def create_state(config: ConfigDict, transform: optax.GradientTransformation) -> TrainState:
    """Creates the first state; call it under `jax.jit` with output shardings, or `jax.eval_shape`."""
    learner = Learner(config, rngs=nnx.Rngs(jax.random.fold_in(jax.random.key(config.seed), 0)))
    _, state = nnx.split(learner, nnx.Param)
    params = nnx.to_pure_dict(state)
    # The teacher starts as a copy, not as the same buffers: both are donated to the step.
    teacher = jax.tree.map(jnp.copy, select(params, teacher_paths(learner)))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(step=zero, params=params, teacher=teacher, optimizer=transform.init(params), bad_steps=zero)


def teacher_paths(learner: Learner) -> tuple[str, ...]:
    """The paths of which the objectives ask for an averaged copy, outermost first, each once."""
    paths = {path for objective in learner.objectives.values() for path in objective.teacher_parameters}
    return tuple(sorted(paths))
