"""The one jitted step: objectives, gradients, optimiser, teacher; a pure function of state and batch.

The training step as a program: from a config and a mesh to what is compiled, for devices that may not be there.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch, batch_shapes
from slap_jax.config.defaults import classes_in_batch, patches_per_column, samples_per_column
from slap_jax.objectives import BatchContext, StepContext
from slap_jax.objectives.base import segment_counts
from slap_jax.parallel.sharding import batch_sharding, replicated, shardings, with_shardings
from slap_jax.params import at_path, overlay, unflatten
from slap_jax.training.grad_cache import Rows, gradient_in_parts
from slap_jax.training.optimizer import create_optimizer, learning_rate_schedule, stop_frozen
from slap_jax.training.state import Learner, TrainState, abstract_learner, create_state, graph_of

Metrics = dict[str, Float[Array, ""]]


class Loss:
    """The weighted sum of the objectives, in two halves: the towers' features of rows, and the loss of them all."""

    def __init__(self, config: ConfigDict, graph: nnx.GraphDef, teacher: Any, step: Int[Array, ""]):
        """Prepares the loss of one step.

        Args:
            config: the whole configuration.
            graph: of `abstract_learner(config)`.
            teacher: the averaged copies.
            step: updates done so far.
        """
        self.config, self.graph, self.teacher = config, graph, teacher
        self.key = jax.random.fold_in(jax.random.key(config.seed), step + 1)  # 0 was the initialisation's
        self.progress = step.astype(jnp.float32) / config.train.steps

    def _learners(self, params: Any) -> tuple[Learner, Learner]:
        """Student and teacher."""
        averaged = jax.lax.stop_gradient(overlay(params, self.teacher))
        params = stop_frozen(params, self.config.optimizer.learning_rate_factors)
        return nnx.merge(self.graph, params), nnx.merge(self.graph, averaged)

    def features(self, params: Any, rows: Rows) -> dict[str, dict[str, Array]]:
        """What each objective needs of the rows, by its name."""
        student, teacher = self._learners(params)
        batch, row_numbers = rows
        views = StepContext(student.model, teacher.model, teacher.objectives, batch, row_numbers, self.key, self.config)
        return {name: objective.forward(views) for name, objective in student.objectives.items()}

    def of_features(
        self, params: Any, features: dict[str, dict[str, Array]], batch: PackedBatch
    ) -> tuple[Float[Array, ""], Metrics]:
        """The loss and the metrics, from the features of all rows of the batch."""
        student, teacher = self._learners(params)
        whole = BatchContext(batch, teacher.objectives, self.progress, self.config)
        total, metrics = jnp.zeros((), jnp.float32), {}
        for name, objective in student.objectives.items():
            term = objective.loss(features[name], whole)
            total += self.config.objectives[name].weight * term.loss
            metrics |= {f"loss/{name}": term.loss} | term.metrics
        return total, {"loss/total": total} | metrics


def make_loss(config: ConfigDict, graph: nnx.GraphDef) -> Callable[..., tuple[Float[Array, ""], Metrics]]:
    """Returns `loss(params, teacher, batch, step) -> (total, metrics)`, all rows at once."""

    def loss(params: Any, teacher: Any, batch: PackedBatch, step: Array) -> tuple[Float[Array, ""], Metrics]:
        this = Loss(config, graph, teacher, step)
        return this.of_features(params, this.features(params, all_rows(batch)), batch)

    return loss


def make_gradient(config: ConfigDict, graph: nnx.GraphDef) -> Callable[..., tuple[Metrics, Any]]:
    """Returns `gradient(params, teacher, batch, step) -> (metrics, gradient)`, in `config.train.accumulate` parts."""
    whole = jax.value_and_grad(make_loss(config, graph), has_aux=True)

    def gradient(params: Any, teacher: Any, batch: PackedBatch, step: Array) -> tuple[Metrics, Any]:
        if config.train.accumulate == 1:
            (_, metrics), found = whole(params, teacher, batch, step)
            return metrics, found
        this = Loss(config, graph, teacher, step)
        (_, metrics), found = gradient_in_parts(
            this.features,
            lambda params, features: this.of_features(params, features, batch),
            params,
            all_rows(batch),
            config.train.accumulate,
        )
        return metrics, found

    return gradient


def all_rows(batch: PackedBatch) -> Rows:
    """The batch with the numbers of its rows."""
    return batch, jnp.arange(batch.clip_valid.shape[0])


def batch_counts(batch: PackedBatch, config: ConfigDict) -> Metrics:
    """What a batch holds, for throughput, packing fill and FLOPs (sums over the global batch)."""
    slots = batch.clip_valid.shape[1]
    patches = patches_per_column(config.audio)
    columns = segment_counts(batch.audio_segment_ids, slots)[:, 1:].astype(jnp.float32)
    text = segment_counts(batch.text_segment_ids, slots)[:, 1:].astype(jnp.float32)
    column_seconds = samples_per_column(config.audio) / config.audio.sample_rate
    return {
        "clips": jnp.sum(batch.clip_valid, dtype=jnp.float32),
        "audio_seconds": jnp.sum(columns) * column_seconds,
        "audio_tokens": jnp.sum(columns) * patches,
        "audio_tokens_squared": jnp.sum(columns**2) * patches**2,
        "text_tokens": jnp.sum(text),
        "text_tokens_squared": jnp.sum(text**2),
        "cross_tokens": jnp.sum(columns * text) * patches,
        "packing_fill": jnp.sum(columns) / batch.audio_segment_ids.size,
    } | source_counts(batch, columns * column_seconds, list(config.data.train))


def source_counts(batch: PackedBatch, seconds: Float[Array, "R K"], names: Sequence[str]) -> Metrics:
    """Clips and seconds of audio of each source; nothing where there is but one, whose counts the batch's are."""
    counts: Metrics = {}
    for number, name in enumerate(names if len(names) > 1 else ()):
        from_source = batch.clip_valid & (batch.clip_source == number)
        counts[f"clips/{name}"] = jnp.sum(from_source, dtype=jnp.float32)
        counts[f"audio_seconds/{name}"] = jnp.sum(jnp.where(from_source, seconds, 0.0))
    return counts


def make_train_step(
    config: ConfigDict, learner: Learner, transform: optax.GradientTransformation
) -> Callable[[TrainState, PackedBatch], tuple[TrainState, Metrics]]:
    """Returns `step(state, batch) -> (state, metrics)`, to be jitted with the state donated.

    A step whose loss or gradient is not finite leaves parameters, teacher and optimiser as they were and is counted
    in `bad_steps`.

    Args:
        config: the whole configuration.
        learner: `abstract_learner(config)`.
        transform: `create_optimizer(config.optimizer, config.train.steps)`.
    """
    gradient = make_gradient(config, graph_of(learner))
    schedule = learning_rate_schedule(config.optimizer, config.train.steps)
    momenta = teacher_momenta(learner)

    def train_step(state: TrainState, batch: PackedBatch) -> tuple[TrainState, Metrics]:
        metrics, gradients = gradient(state.params, state.teacher, batch, state.step)
        norm = optax.global_norm(gradients)
        updates, optimizer = transform.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        progress = state.step.astype(jnp.float32) / config.train.steps
        teacher = update_teacher(state.teacher, params, momenta, progress)

        good = jnp.isfinite(norm) & jnp.isfinite(metrics["loss/total"])
        params, teacher, optimizer = jax.tree.map(
            lambda new, old: jnp.where(good, new, old),
            (params, teacher, optimizer),
            (state.params, state.teacher, state.optimizer),
        )
        bad_steps = jnp.where(good, 0, state.bad_steps + 1)
        metrics |= batch_counts(batch, config)
        metrics |= {
            "gradient_norm": norm,
            "learning_rate": jnp.asarray(schedule(state.step)),
            "bad_steps": bad_steps.astype(jnp.float32),
        }
        return TrainState(state.step + 1, params, teacher, optimizer, bad_steps), metrics

    return train_step


def teacher_momenta(learner: Learner) -> dict[str, Callable[[Array], Array]]:
    """The schedule by which each averaged path follows the student."""
    return {
        path: objective.teacher_momentum
        for objective in learner.objectives.values()
        for path in objective.teacher_parameters
    }


def update_teacher(teacher: Any, params: Any, momenta: dict[str, Callable[[Array], Array]], progress: Array) -> Any:
    """Moves every averaged path towards the student: `momentum * teacher + (1 - momentum) * student`."""
    for path, schedule in momenta.items():
        momentum = schedule(progress)
        moved = jax.tree.map(
            lambda old, new, m=momentum: m * old + (1.0 - m) * new, at_path(teacher, path), at_path(params, path)
        )
        teacher = overlay(teacher, unflatten({path: moved}))
    return teacher


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
