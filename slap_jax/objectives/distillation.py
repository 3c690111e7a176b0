"""Masked self-distillation: the student predicts, for patches it does not see, the teacher's prototype assignment.

The iBOT term (arXiv 2111.07832) in the form of DINOv2 (arXiv 2304.07193): Sinkhorn-Knopp over the masked tokens of
the global batch, an averaged teacher, and the mean taken per clip first so that long clips do not dominate.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from slap_jax.objectives.masking import masked_positions, segment_counts
from slap_jax.objectives.source_weights import token_weights, total_weight, weighted
from slap_jax.objectives.views import LossTerm, Views


def sinkhorn(
    scores: Float[Array, "... P"], valid: Bool[Array, "..."], temperature: Float[Array, ""] | float, iterations: int
) -> Float[Array, "... P"]:
    """Balanced soft assignment of tokens to prototypes (Sinkhorn-Knopp, as in SwAV, arXiv 2006.09882).

    Args:
        scores: the teacher's prototype scores of every token.
        valid: which tokens count; the others get an assignment of zeros.
        temperature: divides the scores.
        iterations: rounds of normalising prototypes, then tokens.

    Returns:
        Non-negative; every valid token's assignment sums to 1, and every prototype gets about the same total.
    """
    tokens = tuple(range(scores.ndim - 1))
    scores = scores.astype(jnp.float32) / temperature
    highest = jnp.max(jnp.where(valid[..., None], scores, -jnp.inf))
    highest = jnp.where(jnp.isfinite(highest), highest, 0.0)
    assignment = jnp.where(valid[..., None], jnp.exp(scores - highest), 0.0)
    prototypes = scores.shape[-1]
    count = jnp.maximum(jnp.sum(valid, dtype=jnp.float32), 1.0)
    tiny = jnp.finfo(jnp.float32).tiny
    for _ in range(iterations):
        assignment /= jnp.maximum(jnp.sum(assignment, axis=tokens, keepdims=True), tiny) * prototypes
        assignment /= jnp.maximum(jnp.sum(assignment, axis=-1, keepdims=True), tiny) * count
    return assignment * count


class PrototypeHead(nnx.Module):
    """Three layers to a unit vector, then its cosine with each prototype (the DINO head, arXiv 2104.14294)."""

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        """Creates the layers: `width -> hidden -> hidden -> bottleneck -> prototypes`."""
        self.input = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.hidden = nnx.Linear(hidden, hidden, dtype=dtype, rngs=rngs)
        self.output = nnx.Linear(hidden, bottleneck, dtype=dtype, rngs=rngs)
        self.prototypes = nnx.Param(jax.random.normal(rngs.params(), (bottleneck, prototypes)) * bottleneck**-0.5)

    def __call__(self, tokens: Float[Array, "... D"], freeze: Bool[Array, ""] | bool = False) -> Float[Array, "... P"]:
        """Returns prototype scores in [-1, 1], fp32; with `freeze`, the prototypes get no gradient."""
        hidden = nnx.gelu(self.hidden(nnx.gelu(self.input(tokens))))
        unit = _unit(self.output(hidden).astype(jnp.float32), axis=-1)
        prototypes = self.prototypes[...]
        prototypes = jnp.where(freeze, jax.lax.stop_gradient(prototypes), prototypes)
        return unit @ _unit(prototypes, axis=0)


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

    def __call__(self, views: Views) -> LossTerm:
        """Returns the loss over the masked patches of the global batch, its clips weighted by their sources."""
        settings, segments = self.settings, views.token_segments
        positions, valid = masked_positions(views.mask, views.slots, settings.mask_ratio)
        weights, patch_weights = views.clip_weights("distillation"), None
        if weights is not None:
            patch_weights = jnp.take_along_axis(token_weights(weights, segments), positions, axis=1)
            valid &= patch_weights > 0  # clips that count nothing do not enter Sinkhorn-Knopp either

        def gather(tokens: Float[Array, "R L D"]) -> Float[Array, "R M D"]:
            return jnp.take_along_axis(tokens, positions[..., None], axis=1)

        student = self.head(gather(views.masked_audio_tokens), freeze=views.progress < settings.freeze_last_layer)
        teacher_head = views.teacher_objectives["distillation"].head
        teacher = jax.lax.stop_gradient(teacher_head(gather(views.teacher_audio_tokens)))
        temperature = self.teacher_temperature(views.progress)
        assignment = sinkhorn(teacher, valid, temperature, settings.sinkhorn_iterations)
        prediction = jax.nn.log_softmax(student / settings.student_temperature, axis=-1)
        losses = -jnp.sum(assignment * prediction, axis=-1)

        masked_segments = jnp.where(views.mask, segments, 0)
        masked_in_clip = jnp.take_along_axis(segment_counts(masked_segments, views.slots), segments, axis=1)
        share = jnp.where(valid, 1.0 / jnp.maximum(jnp.take_along_axis(masked_in_clip, positions, axis=1), 1), 0.0)
        total = jnp.sum(weighted(losses * share, patch_weights))
        loss = total / (views.clip_count if weights is None else total_weight(weights > 0, weights))
        return LossTerm(loss, _prototype_metrics(teacher, valid, temperature))

    def teacher_temperature(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Rises linearly over the first steps, so that early, meaningless assignments stay sharp enough to learn."""
        settings = self.settings
        start, end = settings.teacher_temperature_start, settings.teacher_temperature_end
        return start + (end - start) * jnp.clip(progress / max(settings.teacher_temperature_warmup, 1e-6), 0.0, 1.0)

    def teacher_momentum(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Rises from `momentum_start` to 1 along half a cosine (paper equation 7)."""
        return 1.0 - (1.0 - self.settings.momentum_start) * (1.0 + jnp.cos(jnp.pi * progress)) / 2.0


def _prototype_metrics(
    scores: Float[Array, "R M P"], valid: Bool[Array, "R M"], temperature: Float[Array, ""]
) -> dict[str, Float[Array, ""]]:
    """Signs of collapse, of the scores before Sinkhorn balances them."""
    count, prototypes = jnp.maximum(jnp.sum(valid), 1), scores.shape[-1]
    assignment = jnp.where(valid[..., None], jax.nn.softmax(scores / temperature, axis=-1), 0.0)
    mean = jnp.sum(assignment, axis=(0, 1)) / count
    chosen = jnp.where(valid, jnp.argmax(scores, axis=-1), prototypes)
    usage = jnp.zeros(prototypes + 1).at[chosen].add(1.0)[:prototypes] / count
    return {
        "prototype_entropy": -jnp.sum(mean * jnp.log(jnp.maximum(mean, 1e-12))) / jnp.log(prototypes),
        "prototype_top_usage": jnp.max(usage),
    }
