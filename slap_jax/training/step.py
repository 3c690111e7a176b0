"""One training step: the loss, its gradient, the update and the teacher; a pure function of state and batch.

To understand one step, read five files in this order:

1. `slap_jax/batch.py`: the packed batch, its rows, columns and slots
2. `slap_jax/models/slap.py`: the towers, from waveform and tokens to embeddings
3. `slap_jax/objectives/base.py`: the passes of student and teacher that objectives share
4. `slap_jax/objectives/contrastive.py`: one objective; the others have the same two methods
5. this file; `state.py` holds the state, and `optimizer.py` the update

With parameters θ, teacher θ̄, gradient g and step t:

    L(θ) = Σ_o w_o L_o(θ, θ̄)            over the objectives o of weight w_o > 0
    g    = ∇_θ L                        over the global batch, even when it is computed in parts (grad_cache.py)
    θ    ← θ - η_t AdamW(clip(g))       optimizer.py
    θ̄    ← m_t θ̄ + (1 - m_t) θ          for the parameters in an objective's `teacher_parameters`, with its momentum m_t

Wherever θ̄ has no copy of a parameter, the teacher uses that of θ, without a gradient. A step whose loss or gradient is
not finite leaves θ, θ̄ and the optimiser's moments as they were; only t advances.
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
from slap_jax.training.flops import length_counts
from slap_jax.training.grad_cache import Rows, value_and_grad_in_parts
from slap_jax.training.optimizer import create_optimizer, learning_rate_schedule, set_schedule_count, stop_frozen
from slap_jax.training.state import Learner, TrainState, abstract_learner, create_state, graph_of

Metrics = dict[str, Float[Array, ""]]
Outputs = dict[str, dict[str, Array]]  # objective -> name -> [R, ...]


def make_train_step(
    config: ConfigDict, learner: Learner, transform: optax.GradientTransformation
) -> Callable[[TrainState, PackedBatch], tuple[TrainState, Metrics]]:
    """Returns `step(state, batch) -> (state, metrics)`; jit it with the state donated.

    Args:
        config: the whole configuration.
        learner: `abstract_learner(config)`.
        transform: `create_optimizer(config.optimizer, config.train.steps)`.
    """
    graph = graph_of(learner)
    schedule = learning_rate_schedule(config.optimizer, config.train.steps)
    momentum_schedules = teacher_momentum_schedules(learner)

    def train_step(state: TrainState, batch: PackedBatch) -> tuple[TrainState, Metrics]:
        loss = StepLoss(config, graph, state.teacher, state.step)
        metrics, gradient = loss.metrics_and_grad(state.params, batch)
        gradient_norm = optax.global_norm(gradient)

        # The schedule counts steps, not applied updates, so a skipped step does not delay the end of the decay.
        opt_state = set_schedule_count(state.optimizer, state.step)
        updates, opt_state = transform.update(gradient, opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        teacher = update_teacher(state.teacher, params, momentum_schedules, loss.progress)

        good = jnp.isfinite(gradient_norm) & jnp.isfinite(metrics["loss/total"])
        params, teacher, opt_state = jax.tree.map(
            lambda new, old: jnp.where(good, new, old),
            (params, teacher, opt_state),
            (state.params, state.teacher, state.optimizer),
        )
        bad_steps = jnp.where(good, 0, state.bad_steps + 1)
        metrics |= batch_counts(batch, config)
        metrics |= {
            "gradient_norm": gradient_norm,
            "learning_rate": jnp.asarray(schedule(state.step)),
            "bad_steps": bad_steps.astype(jnp.float32),
        }
        return TrainState(state.step + 1, params, teacher, opt_state, bad_steps), metrics

    return train_step


class StepLoss:
    """L(θ) = Σ_o w_o L_o(θ, θ̄) of one step.

    It has two halves, so that the batch can pass through the towers in parts while the loss sees all of it: `forward`
    runs the towers on some rows, and `loss_from_outputs` computes the loss from the outputs of all rows.

    Attributes:
        progress: t / steps, in [0, 1].
    """

    def __init__(self, config: ConfigDict, graph: nnx.GraphDef, teacher: Any, step: Int[Array, ""]):
        """Derives the step's randomness and progress.

        Args:
            config: the whole configuration.
            graph: `graph_of(abstract_learner(config))`.
            teacher: θ̄, the averaged copies of some parameters.
            step: t, the number of finished steps, skipped ones included.
        """
        self.config, self.graph, self.teacher = config, graph, teacher
        self.key = jax.random.fold_in(jax.random.key(config.seed), step + 1)  # `create_state` uses 0
        self.progress = step.astype(jnp.float32) / config.train.steps

    def __call__(self, params: Any, batch: PackedBatch) -> tuple[Float[Array, ""], Metrics]:
        """Returns L and the metrics of the objectives."""
        return self.loss_from_outputs(params, self.forward(params, with_row_numbers(batch)), batch)

    def metrics_and_grad(self, params: Any, batch: PackedBatch) -> tuple[Metrics, Any]:
        """Returns the metrics, `loss/total` among them, and ∇_θ L."""
        if self.config.train.accumulate == 1:
            (_, metrics), gradient = jax.value_and_grad(self, has_aux=True)(params, batch)
        else:
            (_, metrics), gradient = value_and_grad_in_parts(
                self.forward,
                lambda params, outputs: self.loss_from_outputs(params, outputs, batch),
                params,
                with_row_numbers(batch),
                self.config.train.accumulate,
            )
        return metrics, gradient

    def forward(self, params: Any, rows: Rows) -> Outputs:
        """Returns what each objective keeps of the rows."""
        student, teacher = self._student_and_teacher(params)
        batch, row_numbers = rows
        context = StepContext(
            student.model, teacher.model, teacher.objectives, batch, row_numbers, self.key, self.config
        )
        return {name: objective.forward(context) for name, objective in student.objectives.items()}

    def loss_from_outputs(self, params: Any, outputs: Outputs, batch: PackedBatch) -> tuple[Float[Array, ""], Metrics]:
        """Returns L and the metrics, from the outputs of `forward` for all rows of the batch."""
        student, teacher = self._student_and_teacher(params)
        context = BatchContext(batch, teacher.objectives, self.progress, self.config)
        total, metrics = jnp.zeros((), jnp.float32), {}
        for name, objective in student.objectives.items():
            term = objective.loss(outputs[name], context)
            total += self.config.objectives[name].weight * term.loss
            metrics |= {f"loss/{name}": term.loss} | term.metrics
        return total, {"loss/total": total} | metrics

    def _student_and_teacher(self, params: Any) -> tuple[Learner, Learner]:
        """Returns the learner with θ, and with θ̄ in place of the parameters that have an averaged copy."""
        averaged = jax.lax.stop_gradient(overlay(params, self.teacher))
        params = stop_frozen(params, self.config.optimizer.learning_rate_factors)
        return nnx.merge(self.graph, params), nnx.merge(self.graph, averaged)


def teacher_momentum_schedules(learner: Learner) -> dict[str, Callable[[Array], Array]]:
    """Returns m(progress) of each parameter path with an averaged copy, such as "model/audio_encoder"."""
    return {
        path: objective.teacher_momentum
        for objective in learner.objectives.values()
        for path in objective.teacher_parameters
    }


def update_teacher(
    teacher: Any, params: Any, momentum_schedules: dict[str, Callable[[Array], Array]], progress: Array
) -> Any:
    """Returns θ̄ ← m θ̄ + (1 - m) θ for every averaged path; m is the path's momentum at this progress."""
    for path, schedule in momentum_schedules.items():
        m = schedule(progress)
        moved = jax.tree.map(
            lambda old, new, m=m: m * old + (1.0 - m) * new, at_path(teacher, path), at_path(params, path)
        )
        teacher = overlay(teacher, unflatten({path: moved}))
    return teacher


def with_row_numbers(batch: PackedBatch) -> Rows:
    """Returns all rows with their numbers, from which each row's randomness is derived."""
    return batch, jnp.arange(batch.clip_valid.shape[0])


@dataclasses.dataclass(frozen=True)
class StepProgram:
    """The step of one config on one mesh, before it is compiled.

    Attributes:
        step: the jitted step, which donates its state.
        init: creates the first state; jit it with `state_shardings`.
        state: shapes of the state, with shardings, to which a checkpoint is restored.
        state_shardings: the sharding of each array of the state.
        batch: shapes of the global batch, with shardings.
        mesh: the devices.
    """

    step: Any
    init: Callable[[], TrainState]
    state: TrainState
    state_shardings: TrainState
    batch: PackedBatch
    mesh: Mesh | AbstractMesh

    @functools.cached_property
    def traced(self) -> jax.stages.Traced:
        """The traced step; the training loop calls `traced.lower().compile()`.

        Kernels are chosen while tracing, by `target_platform()`: to compile for devices that this machine lacks, read
        this property for the first time inside `compiling_for`.
        """
        assert isinstance(self.mesh, Mesh)
        with jax.set_mesh(self.mesh):
            return self.step.trace(self.state, self.batch)


def step_program(config: ConfigDict, mesh: Mesh | AbstractMesh) -> StepProgram:
    """Builds the step; only the creation of the state is traced.

    Args:
        config: the whole, validated configuration.
        mesh: `create_mesh(config.parallel)`, over real or described devices; an abstract mesh is enough for shapes.
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


def batch_counts(batch: PackedBatch, config: ConfigDict) -> Metrics:
    """Returns sums over the global batch that throughput, packing fill and FLOPs are computed from."""
    slots = batch.clip_valid.shape[1]
    columns = segment_counts(batch.audio_segment_ids, slots)[:, 1:].astype(jnp.float32)
    text = segment_counts(batch.text_segment_ids, slots)[:, 1:].astype(jnp.float32)
    seconds = columns * (samples_per_column(config.audio) / config.audio.sample_rate)
    return {
        "clips": jnp.sum(batch.clip_valid, dtype=jnp.float32),
        "audio_seconds": jnp.sum(seconds),
        "packing_fill": jnp.sum(columns) / batch.audio_segment_ids.size,
        **length_counts(config.model, columns * patches_per_column(config.audio), text),
        **source_counts(batch, seconds, list(config.data.train)),
    }


def source_counts(batch: PackedBatch, seconds: Float[Array, "R K"], names: Sequence[str]) -> Metrics:
    """Returns the clips and seconds of audio of each source; empty for one source, whose counts are the batch's."""
    counts: Metrics = {}
    for number, name in enumerate(names if len(names) > 1 else ()):
        from_source = batch.clip_valid & (batch.clip_source == number)
        counts[f"clips/{name}"] = jnp.sum(from_source, dtype=jnp.float32)
        counts[f"audio_seconds/{name}"] = jnp.sum(jnp.where(from_source, seconds, 0.0))
    return counts
