"""The one jitted step: objectives, gradients, optimiser, teacher; a pure function of state and batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.config import patches_per_column, samples_per_column
from slap_jax.objectives import Views
from slap_jax.objectives.masking import segment_counts
from slap_jax.optimizer import learning_rate_schedule
from slap_jax.paths import at_path, overlay, unflatten
from slap_jax.train_state import Learner, TrainState, graph_of

Metrics = dict[str, Float[Array, ""]]


def make_loss(config: ConfigDict, graph: nnx.GraphDef) -> Callable[..., tuple[Float[Array, ""], Metrics]]:
    """Returns `loss(params, teacher, batch, step) -> (total, metrics)`: the weighted sum of the objectives."""

    def loss(params: Any, teacher: Any, batch: PackedBatch, step: Array) -> tuple[Float[Array, ""], Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), step + 1)  # 0 was the initialisation's
        progress = step.astype(jnp.float32) / config.train.steps
        learner = nnx.merge(graph, params)
        averaged = nnx.merge(graph, jax.lax.stop_gradient(overlay(params, teacher)))
        views = Views(learner.model, averaged.model, averaged.objectives, batch, key, progress, config)
        total, metrics = jnp.zeros((), jnp.float32), {}
        for name, objective in learner.objectives.items():
            term = objective(views)
            total += config.objectives[name].weight * term.loss
            metrics |= {f"loss/{name}": term.loss} | term.metrics
        return total, {"loss/total": total} | metrics

    return loss


def batch_counts(batch: PackedBatch, config: ConfigDict) -> Metrics:
    """What a batch holds, for throughput, packing fill and FLOPs (sums over the global batch)."""
    slots = batch.clip_valid.shape[1]
    patches = patches_per_column(config.audio)
    columns = segment_counts(batch.audio_segments, slots)[:, 1:].astype(jnp.float32)
    text = segment_counts(batch.text_segments, slots)[:, 1:].astype(jnp.float32)
    column_seconds = samples_per_column(config.audio) / config.audio.sample_rate
    return {
        "clips": jnp.sum(batch.clip_valid, dtype=jnp.float32),
        "audio_seconds": jnp.sum(columns) * column_seconds,
        "audio_tokens": jnp.sum(columns) * patches,
        "audio_tokens_squared": jnp.sum(columns**2) * patches**2,
        "text_tokens": jnp.sum(text),
        "text_tokens_squared": jnp.sum(text**2),
        "cross_tokens": jnp.sum(columns * text) * patches,
        "packing_fill": jnp.sum(columns) / batch.audio_segments.size,
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
    loss = make_loss(config, graph_of(learner))
    schedule = learning_rate_schedule(config.optimizer, config.train.steps)
    momenta = teacher_momenta(learner)

    def train_step(state: TrainState, batch: PackedBatch) -> tuple[TrainState, Metrics]:
        (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, state.teacher, batch, state.step)
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
            "learning_rate": schedule(state.step),
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
