"""Masked self-distillation: at patches hidden from it, the student predicts the teacher's prototype assignment.

The iBOT loss (arXiv 2111.07832) in the form of DINOv2 (arXiv 2304.07193): an EMA teacher sees all patches, and
Sinkhorn-Knopp balances its assignments over the masked tokens of the global batch. The loss is averaged per clip first,
so that long clips do not dominate.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from slap_jax.objectives.base import (
    BatchContext,
    LossTerm,
    StepContext,
    segment_counts,
    token_weights,
    total_weight,
    weighted,
)
from slap_jax.objectives.chunks import sharded_axes
from slap_jax.objectives.prototypes import PrototypeUsage, prototype_cross_entropy, sinkhorn_knopp
from slap_jax.parallel.sharding import constrain


class SelfDistillation(nnx.Module):
    """Cross-entropy between the teacher's assignment and the student's prediction at the masked patches.

        loss = 1/N sum over clips of 1/|masked patches| sum over masked patches of -sum_j q_j log p_j

    where q is the teacher's assignment and p the student's prediction, see `prototype_cross_entropy`.
    """

    teacher_parameters: tuple[str, ...] = ("model/audio_encoder", "objectives/distillation/head")

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the prototype head, of which student and teacher each have their own parameters."""
        self.settings = config.objectives.distillation.copy_and_resolve_references()
        width = config.model.audio_encoder.width
        dtype = jnp.dtype(config.model.compute_dtype)
        settings = self.settings
        self.head = PrototypeHead(width, settings.hidden, settings.bottleneck, settings.prototypes, dtype, rngs=rngs)

    def forward(self, context: StepContext) -> dict[str, Array]:
        """Returns what the loss needs of up to M masked patches in each row.

        student, teacher: normalised vectors [R, M, B].
        valid: whether there is a patch [R, M].
        segment_ids: segment of its clip [R, M].
        clip_fraction: 1 / number of masked patches in its clip [R, M], 0 where there is no patch.
        """
        segment_ids = context.token_segment_ids
        positions, valid = masked_positions(context.mask, context.slots, self.settings.mask_ratio)

        teacher_head = context.teacher_objectives["distillation"].head
        masked_segment_ids = jnp.take_along_axis(segment_ids, positions, axis=1)
        masked_counts = segment_counts(jnp.where(context.mask, segment_ids, 0), context.slots)
        fraction = 1.0 / jnp.maximum(jnp.take_along_axis(masked_counts, masked_segment_ids, axis=1), 1)
        student = self.head.normalized_tokens(gather_positions(context.masked_audio_tokens, positions))
        teacher = teacher_head.normalized_tokens(gather_positions(context.teacher_audio_tokens, positions))
        return {
            "student": student,
            "teacher": jax.lax.stop_gradient(teacher),
            "valid": valid,
            "segment_ids": masked_segment_ids,
            "clip_fraction": jnp.where(valid, fraction, 0.0),
        }

    def loss(self, outputs: dict[str, Array], context: BatchContext) -> LossTerm:
        """Returns the loss over the masked patches of the global batch, with clips weighted by their sources."""
        settings, valid = self.settings, outputs["valid"]
        weights, patch_weights = context.clip_weights("distillation"), None
        if weights is not None:
            patch_weights = token_weights(weights, outputs["segment_ids"])
            valid &= patch_weights > 0  # clips of weight 0 do not enter Sinkhorn-Knopp either
        loss_weights = weighted(outputs["clip_fraction"], patch_weights)
        teacher = jax.lax.stop_gradient(outputs["teacher"])
        prototypes = self.head.normalized_prototypes(freeze=context.progress < settings.freeze_last_layer)
        teacher_head = context.teacher_objectives["distillation"].head
        teacher_prototypes = jax.lax.stop_gradient(teacher_head.normalized_prototypes())
        temperature = self.teacher_temperature(context.progress)
        potentials, usage = sinkhorn_knopp(
            teacher, teacher_prototypes, valid, temperature, settings.sinkhorn_iterations, settings.token_chunk
        )
        total = prototype_cross_entropy(
            outputs["student"],
            prototypes,
            settings.student_temperature,
            teacher,
            teacher_prototypes,
            temperature,
            potentials,
            loss_weights,
            settings.token_chunk,
        )
        loss = total / (context.clip_count if weights is None else total_weight(weights > 0, weights))
        return LossTerm(loss, _collapse_metrics(usage))

    def teacher_temperature(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Returns the temperature of the assignment, which rises linearly during the warm-up.

            temperature(p) = start + (end - start) min(p / warmup, 1)

        The low start keeps early assignments, which mean little yet, sharp enough to learn from.
        """
        settings = self.settings
        start, end = settings.teacher_temperature_start, settings.teacher_temperature_end
        return start + (end - start) * jnp.clip(progress / max(settings.teacher_temperature_warmup, 1e-6), 0.0, 1.0)

    def teacher_momentum(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Returns the EMA momentum m of the teacher, which rises to 1 along half a cosine (paper equation 7).

        m(p) = 1 - (1 - m_start) (1 + cos(pi p)) / 2
        teacher = m teacher + (1 - m) student          after each update
        """
        return 1.0 - (1.0 - self.settings.momentum_start) * (1.0 + jnp.cos(jnp.pi * progress)) / 2.0


def _collapse_metrics(usage: PrototypeUsage) -> dict[str, Float[Array, ""]]:
    """Returns the entropy of the prototypes, as a fraction of the largest possible, and the usage of the top one."""
    p = usage.mean_probability
    entropy = -jnp.sum(p * jnp.log(jnp.maximum(p, 1e-12)))
    return {
        "prototype_entropy": entropy / jnp.log(p.shape[0]),
        "prototype_top_usage": jnp.max(usage.top_fraction),
    }


class PrototypeHead(nnx.Module):
    """A three-layer MLP to a unit vector, which is compared with prototypes (the DINO head, arXiv 2104.14294)."""

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        """Creates the layers `width -> hidden -> hidden -> bottleneck`, and the prototypes."""
        self.input = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.hidden = nnx.Linear(hidden, hidden, dtype=dtype, rngs=rngs)
        self.output = nnx.Linear(hidden, bottleneck, dtype=dtype, rngs=rngs)
        self.prototypes = nnx.Param(jax.random.normal(rngs.params(), (bottleneck, prototypes)) * bottleneck**-0.5)

    def normalized_tokens(self, tokens: Float[Array, "... D"]) -> Float[Array, "... B"]:
        """Returns the unit vector of each token, fp32."""
        hidden = nnx.gelu(self.hidden(nnx.gelu(self.input(tokens))))
        return _normalize(self.output(hidden).astype(jnp.float32), axis=-1)

    def normalized_prototypes(self, freeze: Bool[Array, ""] | bool = False) -> Float[Array, "B P"]:
        """Returns the prototypes scaled to unit length, fp32; with `freeze` they have no gradient."""
        prototypes = self.prototypes[...]
        # Gathered over `fsdp` first, so that neither the norms nor the scores need sums over devices.
        prototypes = constrain(prototypes, PartitionSpec(None, *sharded_axes(prototypes.shape[1])))
        return _normalize(jnp.where(freeze, jax.lax.stop_gradient(prototypes), prototypes), axis=0)


def _normalize(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=axis, keepdims=True) + 1e-12)


def masked_positions(
    mask: Bool[Array, "R L"], slots: int, ratio: float
) -> tuple[Int[Array, "R M"], Bool[Array, "R M"]]:
    """Returns the masked positions of each row in an array of static size.

    Returns:
        The positions, masked ones first, and whether each is masked. M is the largest number that `random_mask` masks:
        each of the K clips rounds up by at most a half.
    """
    length = mask.shape[1]
    limit = min(length, int(ratio * length + 0.5 * slots) + 1)
    order = jnp.argsort(~mask, axis=1, stable=True)[:, :limit]
    return order, jnp.take_along_axis(mask, order, axis=1)


def gather_positions(tokens: Float[Array, "R L D"], positions: Int[Array, "R M"]) -> Float[Array, "R M D"]:
    """Returns the tokens at the positions, which must be distinct within a row: the gradient then needs no sums."""
    return jax.vmap(lambda row, index: row.at[index].get(unique_indices=True, mode="promise_in_bounds"))(
        tokens, positions
    )
