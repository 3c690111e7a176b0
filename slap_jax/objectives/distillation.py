"""Masked self-distillation: the student predicts, for patches it does not see, the teacher's prototype assignment.

The iBOT term (arXiv 2111.07832) in the form of DINOv2 (arXiv 2304.07193): Sinkhorn-Knopp over the masked tokens of
the global batch, an averaged teacher, and the mean taken per clip first so that long clips do not dominate.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from slap_jax.objectives.base import BatchContext, LossTerm, StepContext, token_weights, total_weight, weighted
from slap_jax.objectives.chunks import split_axes
from slap_jax.objectives.masking import gather_places, masked_positions, segment_counts
from slap_jax.objectives.prototypes import PrototypeUse, balance, prototype_cross_entropy
from slap_jax.parallel.sharding import constrain


class PrototypeHead(nnx.Module):
    """Three layers to a unit vector, then its cosine with each prototype (the DINO head, arXiv 2104.14294)."""

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        """Creates the layers: `width -> hidden -> hidden -> bottleneck -> prototypes`."""
        self.input = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.hidden = nnx.Linear(hidden, hidden, dtype=dtype, rngs=rngs)
        self.output = nnx.Linear(hidden, bottleneck, dtype=dtype, rngs=rngs)
        self.prototypes = nnx.Param(jax.random.normal(rngs.params(), (bottleneck, prototypes)) * bottleneck**-0.5)

    def units(self, tokens: Float[Array, "... D"]) -> Float[Array, "... B"]:
        """Returns the unit vector of each token, fp32."""
        hidden = nnx.gelu(self.hidden(nnx.gelu(self.input(tokens))))
        return _unit(self.output(hidden).astype(jnp.float32), axis=-1)

    def unit_prototypes(self, freeze: Bool[Array, ""] | bool = False) -> Float[Array, "B P"]:
        """Returns the unit vectors of the prototypes, fp32; with `freeze`, they get no gradient."""
        prototypes = self.prototypes[...]
        # Gathered over `fsdp` at once, so that neither the norm nor the scores are sums over devices.
        prototypes = constrain(prototypes, PartitionSpec(None, *split_axes(prototypes.shape[1])))
        return _unit(jnp.where(freeze, jax.lax.stop_gradient(prototypes), prototypes), axis=0)


def _unit(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=axis, keepdims=True) + 1e-12)


class SelfDistillation(nnx.Module):
    """Cross-entropy between the teacher's assignment and the student's prediction at the masked patches."""

    teacher_parameters: tuple[str, ...] = ("model/audio_encoder", "objectives/distillation/head")

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the prototype head; student and teacher each have their own parameters for it."""
        self.settings = config.objectives.distillation.copy_and_resolve_references()
        width = config.model.audio_encoder.width
        dtype = jnp.dtype(config.model.compute_dtype)
        settings = self.settings
        self.head = PrototypeHead(width, settings.hidden, settings.bottleneck, settings.prototypes, dtype, rngs=rngs)

    def forward(self, context: StepContext) -> dict[str, Array]:
        """Returns, of every place for a masked patch: student's and teacher's unit vector [R, M, B], whether there is
        a patch [R, M], the slot of its clip, and the patch's share of its clip, one over the clip's masked patches.
        """
        segments = context.token_segments
        positions, valid = masked_positions(context.mask, context.slots, self.settings.mask_ratio)

        teacher_head = context.teacher_objectives["distillation"].head
        owner = jnp.take_along_axis(segments, positions, axis=1)
        masked_in_clip = segment_counts(jnp.where(context.mask, segments, 0), context.slots)
        share = 1.0 / jnp.maximum(jnp.take_along_axis(masked_in_clip, owner, axis=1), 1)
        return {
            "student": self.head.units(gather_places(context.masked_audio_tokens, positions)),
            "teacher": jax.lax.stop_gradient(
                teacher_head.units(gather_places(context.teacher_audio_tokens, positions))
            ),
            "valid": valid,
            "owner": owner,
            "share": jnp.where(valid, share, 0.0),
        }

    def loss(self, outputs: dict[str, Array], context: BatchContext) -> LossTerm:
        """Returns the loss over the masked patches of the global batch, its clips weighted by their sources."""
        settings, valid = self.settings, outputs["valid"]
        weights, patch_weights = context.clip_weights("distillation"), None
        if weights is not None:
            patch_weights = token_weights(weights, outputs["owner"])
            valid &= patch_weights > 0  # clips that count nothing do not enter Sinkhorn-Knopp either
        share = weighted(outputs["share"], patch_weights)
        teacher = jax.lax.stop_gradient(outputs["teacher"])
        prototypes = self.head.unit_prototypes(freeze=context.progress < settings.freeze_last_layer)
        teacher_prototypes = jax.lax.stop_gradient(context.teacher_objectives["distillation"].head.unit_prototypes())
        temperature = self.teacher_temperature(context.progress)
        potentials, use = balance(
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
            share,
            settings.token_chunk,
        )
        loss = total / (context.clip_count if weights is None else total_weight(weights > 0, weights))
        return LossTerm(loss, _prototype_metrics(use))

    def teacher_temperature(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Rises linearly over the first steps, so that early, meaningless assignments stay sharp enough to learn."""
        settings = self.settings
        start, end = settings.teacher_temperature_start, settings.teacher_temperature_end
        return start + (end - start) * jnp.clip(progress / max(settings.teacher_temperature_warmup, 1e-6), 0.0, 1.0)

    def teacher_momentum(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Rises from `momentum_start` to 1 along half a cosine (paper equation 7)."""
        return 1.0 - (1.0 - self.settings.momentum_start) * (1.0 + jnp.cos(jnp.pi * progress)) / 2.0


def _prototype_metrics(use: PrototypeUse) -> dict[str, Float[Array, ""]]:
    """Signs of collapse."""
    entropy = -jnp.sum(use.mean * jnp.log(jnp.maximum(use.mean, 1e-12)))
    return {
        "prototype_entropy": entropy / jnp.log(use.mean.shape[0]),
        "prototype_top_usage": jnp.max(use.chosen),
    }
