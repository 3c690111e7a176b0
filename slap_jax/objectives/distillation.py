"""Masked self-distillation: at patches hidden from it, the student predicts the teacher's prototype assignment.

The iBOT loss (arXiv 2111.07832) in the form of DINOv2 (arXiv 2304.07193): an EMA teacher sees all patches, and
Sinkhorn-Knopp balances its assignments over the masked tokens of the global batch. The loss is averaged per clip first,
so that long clips do not dominate.

Letters: i runs over the N valid tokens of the global batch and j over the P prototypes. The scores z_i . c_j are
products of unit vectors. No tensor of tokens by prototypes is kept: scores are 30 times longer than the vectors they
are computed from, so each pass computes them again for a chunk of tokens at a time, and devices sum one number per
prototype in each iteration of Sinkhorn-Knopp.

At the base size (12 layers of 768, 8,192 prototypes of 256) the scores of a masked token cost 4.2 MFLOP and the tower's
passes 2.4 GFLOP, so computing them three more times adds 0.5 %. Keeping them would take 8.7 GB over all devices for
each copy. With `token_chunk` at 0, or at least M, they are computed once and kept.

Scores are products of fp32 vectors at the platform's default precision: one pass with bf16 operands on TPU and TF32 on
GPU, both accumulated in fp32. This moves a cosine by about 1e-3 at most, far below the temperatures, and by the same
amount in every pass. Everything after the product is fp32.
"""

import functools
from typing import Any, NamedTuple

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
from slap_jax.objectives.chunks import (
    batch_axes,
    chunk_size,
    loop_over_chunks,
    num_used_chunks,
    pad_to_multiple,
    pmax,
    psum,
    sharded_axes,
    take_chunk,
    update_chunk,
)
from slap_jax.parallel.sharding import BATCH_SPEC, constrain, shard_map_if_mesh

LOWEST = float(jnp.finfo(jnp.float32).min)
TINY = float(jnp.finfo(jnp.float32).tiny)


class SelfDistillation(nnx.Module):
    """Cross-entropy between the teacher's assignment and the student's prediction at the masked patches.

        loss = 1/N sum over clips of 1/|masked patches| sum over masked patches of -sum_j q_j log p_j

    where q is the teacher's assignment and p the student's prediction, see `prototype_cross_entropy`.
    """

    teacher_parameters: tuple[str, ...] = ("model/audio_encoder", "objectives/distillation/head")

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the prototype head; student and teacher have separate parameters for it."""
        self.settings = config.objectives.distillation.copy_and_resolve_references()
        width = config.model.audio_encoder.width
        dtype = jnp.dtype(config.model.compute_dtype)
        settings = self.settings
        self.head = PrototypeHead(width, settings.hidden, settings.bottleneck, settings.prototypes, dtype, rngs=rngs)

    def forward(self, context: StepContext) -> dict[str, Array]:
        """Returns the inputs of the loss for up to M masked patches in each row.

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
        The positions, masked ones first, and whether each is masked. M is the largest number that `random_mask` masks,
        since each of the K clips rounds up by at most a half.
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


# Sinkhorn-Knopp and the cross-entropy, over the tokens of all devices, chunk by chunk.


class PrototypeUsage(NamedTuple):
    """How the tokens spread over the prototypes before Sinkhorn-Knopp balances them; both arrays sum to 1.

    Attributes:
        mean_probability: mean over the tokens of softmax(scores / temperature).
        top_fraction: fraction of the tokens whose highest score belongs to the prototype.
    """

    mean_probability: Float[Array, " P"]
    top_fraction: Float[Array, " P"]


def sinkhorn_knopp(
    tokens: Float[Array, "R M B"],
    prototypes: Float[Array, "B P"],
    valid: Bool[Array, "R M"],
    temperature: Float[Array, ""] | float,
    iterations: int,
    chunk: int,
) -> tuple[Float[Array, " P"], PrototypeUsage]:
    """Computes the potentials that balance the prototypes, by Sinkhorn-Knopp in the log domain; not differentiable.

    Sinkhorn-Knopp (Cuturi 2013; SwAV, arXiv 2006.09882) normalises the columns (prototypes) and the rows (tokens) of
    e^s_ij in turn. Its result is determined by one potential a_j per prototype:

        s_ij = z_i . c_j / temperature
        a_j  = log(P sum_i e^s_ij)                              first iteration
        a_j += log(P/N sum_i q_ij),  q_ij = softmax_j(s_ij - a_j)    every further iteration

    The assignment of token i is softmax_j(s_ij - a_j). Its sum over the tokens is about N/P for every prototype.

    Args:
        tokens: vectors z of the tokens.
        prototypes: vectors c of the prototypes.
        valid: which tokens count.
        temperature: divides the scores.
        iterations: number of iterations, 1 or more.
        chunk: tokens of a row whose scores exist at a time; 0 for all.

    Returns:
        The potentials a, and the usage of the prototypes without them.
    """
    length, num_prototypes = tokens.shape[1], prototypes.shape[1]
    size = chunk_size(length, chunk)
    shards, rows = sharded_axes(num_prototypes), batch_axes()

    def local(tokens: Array, prototypes: Array, valid: Array, temperature: Array, num_chunks: Array) -> tuple:
        tokens, valid = pad_to_multiple(tokens, size), pad_to_multiple(valid, size)
        length = tokens.shape[1]
        num_tokens = jnp.maximum(psum(jnp.sum(valid, dtype=jnp.float32), rows), 1.0)

        def logits_and_mask(index: Array) -> tuple[Float[Array, "n P"], Bool[Array, "n 1"]]:
            logits = take_chunk(tokens, index, size) @ prototypes / temperature
            return logits, take_chunk(valid, index, size)[:, None]

        def first_iteration(index: Array, carry: tuple) -> tuple:
            """Adds a chunk to sum_i e^(s_ij - m), with a running maximum m, and to the usage."""
            m_prev, acc, probability, top = carry
            logits, mask = logits_and_mask(index)
            m_next = jnp.maximum(m_prev, jnp.max(jnp.where(mask, logits, LOWEST)))
            p = jnp.where(mask, jnp.exp(logits - m_next), 0.0)
            alpha = jnp.exp(m_prev - m_next)
            acc = acc * alpha + jnp.sum(p, axis=0)
            probability += jnp.sum(jnp.where(mask, _softmax(logits, shards)[0], 0.0), axis=0)
            top += jnp.sum(_is_top(logits, shards) & mask, axis=0, dtype=jnp.float32)
            return m_next, acc, probability, top

        def further_iteration(potentials: Array, index: Array, acc: Array) -> Array:
            """Adds a chunk to sum_i q_ij."""
            logits, mask = logits_and_mask(index)
            assignment, _ = _softmax(logits - potentials, shards)
            return acc + jnp.sum(jnp.where(mask, assignment, 0.0), axis=0)

        zeros = jnp.zeros(prototypes.shape[1])
        init = (jnp.float32(LOWEST), zeros, zeros, zeros)
        m_local, acc, probability, top = loop_over_chunks(first_iteration, init, num_chunks, length, size)
        m = pmax(m_local, rows + shards)
        acc, probability, top = psum((acc * jnp.exp(m_local - m), probability, top), rows)
        potentials = m + jnp.log(jnp.maximum(acc, TINY) * num_prototypes)
        for _ in range(iterations - 1):
            body = functools.partial(further_iteration, potentials)
            mean = psum(loop_over_chunks(body, zeros, num_chunks, length, size), rows) / num_tokens
            potentials += jnp.log(jnp.maximum(mean, TINY) * num_prototypes)
        return potentials, PrototypeUsage(probability / num_tokens, top / num_tokens)

    per_prototype: Any = PartitionSpec(*shards)
    return shard_map_if_mesh(
        local,
        in_specs=(BATCH_SPEC, PartitionSpec(None, *shards), BATCH_SPEC, PartitionSpec(), PartitionSpec()),
        out_specs=(per_prototype, PrototypeUsage(per_prototype, per_prototype)),
    )(tokens, prototypes, valid, jnp.asarray(temperature, jnp.float32), num_used_chunks(valid, size))


def _collapse_metrics(usage: PrototypeUsage) -> dict[str, Float[Array, ""]]:
    """Returns the entropy of the prototypes, as a fraction of the largest possible, and the usage of the top one."""
    p = usage.mean_probability
    entropy = -jnp.sum(p * jnp.log(jnp.maximum(p, 1e-12)))
    return {
        "prototype_entropy": entropy / jnp.log(p.shape[0]),
        "prototype_top_usage": jnp.max(usage.top_fraction),
    }


def _softmax(logits: Float[Array, "n P"], axes: tuple[str, ...]) -> tuple[Float[Array, "n P"], Float[Array, "n 1"]]:
    """Returns the softmax over prototypes that are sharded over the mesh axes, and its logsumexp."""
    m = pmax(jnp.max(logits, axis=-1, keepdims=True), axes)
    p = jnp.exp(logits - m)
    total = psum(jnp.sum(p, axis=-1, keepdims=True), axes)
    return p / total, m + jnp.log(total)


def _is_top(logits: Float[Array, "n P"], axes: tuple[str, ...]) -> Bool[Array, "n P"]:
    """Marks each token's highest prototype over all shards, the first one if several are equal."""
    num_local = logits.shape[1]
    offset = jax.lax.axis_index(axes) * num_local if axes else 0
    m = jnp.max(logits, axis=-1)
    top: Int[Array, " n"] = offset + jnp.argmax(logits, axis=-1)
    if axes:
        no_shard = jnp.iinfo(jnp.int32).max
        top = jax.lax.pmin(jnp.where(m == pmax(m, axes), top, no_shard), axes)
    return offset + jnp.arange(num_local) == top[:, None]


def prototype_cross_entropy(
    student: Float[Array, "R M B"],
    student_prototypes: Float[Array, "B P"],
    student_temperature: float,
    teacher: Float[Array, "R M B"],
    teacher_prototypes: Float[Array, "B P"],
    teacher_temperature: Float[Array, ""] | float,
    potentials: Float[Array, " P"],
    weights: Float[Array, "R M"],
    chunk: int,
) -> Float[Array, ""]:
    """Returns the weighted sum over the tokens of the cross-entropy between teacher and student (DINO, iBOT).

        q_ij = softmax_j(teacher_i . teacher_prototypes_j / teacher_temperature - a_j)    assignment
        y_ij = student_i . student_prototypes_j / student_temperature                     logits
        p_ij = softmax_j(y_ij)                                                            prediction
        loss = sum_i w_i sum_j -q_ij log p_ij = sum_i w_i (logsumexp_j y_ij - sum_j q_ij y_ij)
        d_loss / d_y_ij = w_i (p_ij - q_ij)

    Only the student's vectors and prototypes have a gradient. The forward pass computes it together with the loss
    while the scores of a chunk exist, and the backward pass only scales it.

    Args:
        student: the student's vector of each token.
        student_prototypes: the student's prototypes.
        student_temperature: divides the student's scores.
        teacher: the teacher's vector of each token.
        teacher_prototypes: the teacher's prototypes.
        teacher_temperature: divides the teacher's scores.
        potentials: a, from `sinkhorn_knopp`.
        weights: w, 0 where there is no token.
        chunk: tokens of a row whose scores exist at a time; 0 for all.
    """
    fixed = (teacher, teacher_prototypes, jnp.asarray(teacher_temperature, jnp.float32), potentials, weights)
    fixed = jax.lax.stop_gradient(fixed)
    return _cross_entropy(student, student_prototypes, fixed, student_temperature, chunk)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _cross_entropy(student: Array, prototypes: Array, fixed: tuple, temperature: float, chunk: int) -> Array:
    return _loss_and_gradients(student, prototypes, fixed, temperature, chunk, with_gradients=False)[0]


def _forward(student: Array, prototypes: Array, fixed: tuple, temperature: float, chunk: int) -> tuple[Array, tuple]:
    return _loss_and_gradients(student, prototypes, fixed, temperature, chunk, with_gradients=True)


def _backward(temperature: float, chunk: int, gradients: tuple, cotangent: Array) -> tuple:
    d_student, d_prototypes = gradients
    return cotangent * d_student, cotangent * d_prototypes, None


_cross_entropy.defvjp(_forward, _backward)


def _loss_and_gradients(
    student: Array, prototypes: Array, fixed: tuple, temperature: float, chunk: int, with_gradients: bool
) -> tuple[Array, tuple]:
    """Returns the loss, and if asked for its gradients with respect to the student's vectors and prototypes."""
    size = chunk_size(student.shape[1], chunk)
    shards, rows = sharded_axes(prototypes.shape[1]), batch_axes()

    def local(student: Array, prototypes: Array, fixed: tuple, num_chunks: Array) -> tuple[Array, tuple]:
        teacher, teacher_prototypes, teacher_temperature, potentials, weights = fixed
        length = student.shape[1]
        student, teacher, weights = (pad_to_multiple(x, size) for x in (student, teacher, weights))

        def add_chunk(index: Array, carry: tuple) -> tuple:
            loss, gradients = carry
            vectors, weight = take_chunk(student, index, size), take_chunk(weights, index, size)[:, None]
            teacher_scores = take_chunk(teacher, index, size) @ teacher_prototypes
            assignment, _ = _softmax(teacher_scores / teacher_temperature - potentials, shards)
            logits = vectors @ prototypes / temperature
            prediction, logsumexp = _softmax(logits, shards)
            losses = logsumexp - psum(jnp.sum(assignment * logits, axis=-1, keepdims=True), shards)
            loss += jnp.sum(weight * losses)
            if with_gradients:
                d_scores = (prediction - assignment) * (weight / temperature)
                d_student, d_prototypes = gradients
                d_student = update_chunk(d_student, d_scores @ prototypes.T, index, size)
                gradients = d_student, d_prototypes + vectors.T @ d_scores
            return loss, gradients

        zeros = (jnp.zeros_like(student), jnp.zeros_like(prototypes)) if with_gradients else ()
        loss, gradients = loop_over_chunks(add_chunk, (jnp.float32(0.0), zeros), num_chunks, student.shape[1], size)
        if with_gradients:
            d_student, d_prototypes = gradients
            gradients = psum(d_student[:, :length], shards), psum(d_prototypes, rows)
        return psum(loss, rows), gradients

    weights = fixed[-1]
    vectors, replicated = PartitionSpec(None, *shards), PartitionSpec()
    fixed_specs = (BATCH_SPEC, vectors, replicated, PartitionSpec(*shards), BATCH_SPEC)
    return shard_map_if_mesh(
        local,
        in_specs=(BATCH_SPEC, vectors, fixed_specs, replicated),
        out_specs=(replicated, (BATCH_SPEC, vectors) if with_gradients else ()),
    )(student, prototypes, fixed, num_used_chunks(weights != 0, size))
