"""The training step as a program: from a config and a mesh to what is compiled, for devices that may not be there."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch, batch_shapes
from slap_jax.config import classes_in_batch, samples_per_column
from slap_jax.optimizer import create_optimizer
from slap_jax.parallel.mesh import batch_sharding, replicated
from slap_jax.parallel.rules import shardings, with_shardings
from slap_jax.train_state import TrainState, abstract_learner, create_state
from slap_jax.train_step import make_train_step


@dataclasses.dataclass(frozen=True)
class StepProgram:
    """The step of one config on one mesh.

    Attributes:
        step: the jitted step, which takes its state over.
        init: makes the first state; jit it with `state_shardings`.
        state: shapes of the state, with shardings: what a checkpoint restores to.
        state_shardings: where each array of the state lies.
        batch: shapes of the global batch, with shardings.
        mesh: of the devices.
    """

    step: Any
    init: Callable[[], TrainState]
    state: TrainState
    state_shardings: TrainState
    batch: PackedBatch
    mesh: Mesh | AbstractMesh

    @functools.cached_property
    def traced(self) -> jax.stages.Traced:
        """The step as a traced program; `traced.lower().compile()` is what the training loop calls.

        Choices between kernels ask `target_platform()`: for other devices than one's own, ask for this the first time
        inside `compiling_for`.
        """
        assert isinstance(self.mesh, Mesh)
        with jax.set_mesh(self.mesh):
            return self.step.trace(self.state, self.batch)


def step_program(config: ConfigDict, mesh: Mesh | AbstractMesh) -> StepProgram:
    """Prepares the step; nothing is traced but the creation of the state.

    Args:
        config: the whole, validated configuration.
        mesh: of `create_mesh(config.parallel)`, of real devices or of described ones. One without devices serves where
            only shapes are wanted.
    """
    learner = abstract_learner(config)
    transform = create_optimizer(config.optimizer, config.train.steps)
    init = functools.partial(create_state, config, transform)
    shapes = jax.eval_shape(init)
    state_shardings: Any = shardings(shapes, mesh)
    rows = batch_sharding(mesh)
    batch = jax.tree.map(
        lambda field: jax.ShapeDtypeStruct(field.shape, field.dtype, sharding=rows), global_batch_shapes(config)
    )
    step = jax.jit(
        make_train_step(config, learner, transform),
        out_shardings=(state_shardings, replicated(mesh)),
        donate_argnums=0,
    )
    return StepProgram(step, init, with_shardings(shapes, mesh), state_shardings, batch, mesh)


def global_batch_shapes(config: ConfigDict) -> PackedBatch:
    """Returns the `jax.ShapeDtypeStruct` of every field of the batch that `config.data` describes."""
    data, per_column = config.data, samples_per_column(config.audio)
    return batch_shapes(
        data.rows, data.columns, data.slots, data.text_tokens, per_column, classes=classes_in_batch(config)
    )
