"""Sinkhorn-Knopp over the tokens of all devices, without a tensor of tokens by prototypes.

Sinkhorn-Knopp (as in SwAV, arXiv 2006.09882) scales the rows and columns of `exp(scores / temperature)` by turns. All
that it finds is one number per prototype, its potential a: after the last scaling of the tokens, the assignment of a
token is `softmax(scores / temperature - a)`. So only the potentials are kept; the scores, cosines of unit vectors that
are 30 times shorter, are computed anew for a part of the tokens at a time, and the devices exchange one sum for each
prototype in each round.

At the base size (12 layers of 768, 8,192 prototypes of 256) the scores of a masked token cost 4.2 MFLOP and the tower's
passes 2.4 GFLOP, so computing them three times more than a version that keeps them adds 0.5 %. Keeping them would take
8.7 GB over all devices for each copy. With `token_chunk` at 0 or at least M they are kept, and computed once.

Scores are products of fp32 vectors at the platform's default precision: on TPU one pass with bf16 operands, on GPU
TF32, either added up in fp32. That moves a cosine by about 1e-3 at most, far below the temperatures, and moves it
alike in every pass. Everything after the product is fp32.

Cross-entropy between the teacher's assignment and the student's prediction, a part of the tokens at a time.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from slap_jax.objectives.chunks import (
    even_size,
    max_over,
    over_parts,
    padded,
    part,
    put_part,
    row_axes,
    split_axes,
    sum_over,
    used_parts,
)
from slap_jax.parallel.sharding import BATCH_SPEC, shard_map_if_mesh

LOWEST = float(jnp.finfo(jnp.float32).min)
TINY = float(jnp.finfo(jnp.float32).tiny)


class PrototypeUse(NamedTuple):
    """How the tokens spread over the prototypes before Sinkhorn-Knopp balances them; both sum to 1.

    Attributes:
        mean: the mean of the tokens' softmax of `scores / temperature`.
        chosen: share of the tokens whose highest score each prototype has.
    """

    mean: Float[Array, " P"]
    chosen: Float[Array, " P"]


def softmax_over(logits: Float[Array, "n P"], axes: tuple[str, ...]) -> tuple[Float[Array, "n P"], Float[Array, "n 1"]]:
    """Returns the softmax over the prototypes of all devices along the axes, and its logsumexp."""
    highest = max_over(jnp.max(logits, axis=-1, keepdims=True), axes)
    powers = jnp.exp(logits - highest)
    total = sum_over(jnp.sum(powers, axis=-1, keepdims=True), axes)
    return powers / total, highest + jnp.log(total)


def balance(
    units: Float[Array, "R M B"],
    prototypes: Float[Array, "B P"],
    valid: Bool[Array, "R M"],
    temperature: Float[Array, ""] | float,
    iterations: int,
    chunk: int,
) -> tuple[Float[Array, " P"], PrototypeUse]:
    """Finds the potentials of the prototypes; not to be differentiated.

    Args:
        units: vector of each token.
        prototypes: vectors that the tokens' are multiplied with.
        valid: which tokens count.
        temperature: divides the scores.
        iterations: rounds of normalising prototypes, then tokens; 1 or more.
        chunk: tokens of a row whose scores exist at a time; 0 for all.

    Returns:
        The potentials: `softmax(scores / temperature - potentials)` of the valid tokens gives each prototype about the
        same total. And the use of the prototypes without them.
    """
    places, count_of_prototypes = units.shape[1], prototypes.shape[1]
    size = even_size(places, chunk)
    split, rows = split_axes(count_of_prototypes), row_axes()

    def local(units: Array, prototypes: Array, valid: Array, temperature: Array, used: Array) -> tuple:
        units, valid = padded(units, size), padded(valid, size)
        count = jnp.maximum(sum_over(jnp.sum(valid, dtype=jnp.float32), rows), 1.0)

        def logits_of(index: Array) -> tuple[Float[Array, "n P"], Bool[Array, "n 1"]]:
            return part(units, index, size) @ prototypes / temperature, part(valid, index, size)[:, None]

        def first(index: Array, carry: tuple) -> tuple:
            highest, sums, mean, chosen = carry
            logits, counted = logits_of(index)
            raised = jnp.maximum(highest, jnp.max(jnp.where(counted, logits, LOWEST)))
            powers = jnp.where(counted, jnp.exp(logits - raised), 0.0)
            sums = sums * jnp.exp(highest - raised) + jnp.sum(powers, axis=0)
            mean += jnp.sum(jnp.where(counted, softmax_over(logits, split)[0], 0.0), axis=0)
            return raised, sums, mean, chosen + jnp.sum(_highest(logits, split) & counted, axis=0, dtype=jnp.float32)

        def later(potentials: Array, index: Array, sums: Array) -> Array:
            logits, counted = logits_of(index)
            assignment, _ = softmax_over(logits - potentials, split)
            return sums + jnp.sum(jnp.where(counted, assignment, 0.0), axis=0)

        zeros = jnp.zeros(prototypes.shape[1])
        highest, sums, mean, chosen = over_parts(
            first, (jnp.float32(LOWEST), zeros, zeros, zeros), used, units.shape[1], size
        )
        highest_anywhere = max_over(highest, rows + split)
        sums, mean, chosen = sum_over((sums * jnp.exp(highest - highest_anywhere), mean, chosen), rows)
        potentials = highest_anywhere + jnp.log(jnp.maximum(sums, TINY) * count_of_prototypes)
        for _ in range(iterations - 1):
            round_sums = over_parts(functools.partial(later, potentials), zeros, used, units.shape[1], size)
            sums = sum_over(round_sums, rows) / count
            potentials += jnp.log(jnp.maximum(sums, TINY) * count_of_prototypes)
        return potentials, PrototypeUse(mean / count, chosen / count)

    spread: Any = PartitionSpec(*split)
    return shard_map_if_mesh(
        local,
        in_specs=(BATCH_SPEC, PartitionSpec(None, *split), BATCH_SPEC, PartitionSpec(), PartitionSpec()),
        out_specs=(spread, PrototypeUse(spread, spread)),
    )(units, prototypes, valid, jnp.asarray(temperature, jnp.float32), used_parts(valid, size))


def _highest(logits: Float[Array, "n P"], axes: tuple[str, ...]) -> Bool[Array, "n P"]:
    """Marks each token's highest prototype, the first of equals, over all devices along the axes."""
    here = logits.shape[1]
    start = jax.lax.axis_index(axes) * here if axes else 0
    best = jnp.max(logits, axis=-1)
    number = start + jnp.argmax(logits, axis=-1)
    if axes:
        nowhere = jnp.iinfo(jnp.int32).max
        number = jax.lax.pmin(jnp.where(best == max_over(best, axes), number, nowhere), axes)
    return start + jnp.arange(here) == number[:, None]


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
    """Returns the sum over all tokens of `weight * -sum(assignment * log prediction)`.

    The assignment is `softmax(teacher scores / teacher_temperature - potentials)`, the prediction
    `softmax(student scores / student_temperature)`; scores are products of vectors and prototypes. Only the student's
    vectors and prototypes get a gradient. It is found together with the loss, while the scores of a part exist, so the
    backward pass only scales it; nothing of tokens by prototypes is kept.

    Args:
        student: the student's vector of each token.
        student_prototypes: its prototypes.
        student_temperature: divides its scores.
        teacher: the teacher's vector of each token.
        teacher_prototypes: its prototypes.
        teacher_temperature: divides its scores.
        potentials: of the prototypes, see `sinkhorn.balance`.
        weights: of the tokens; 0 where none is.
        chunk: tokens of a row whose scores exist at a time; 0 for all.
    """
    fixed = (teacher, teacher_prototypes, jnp.asarray(teacher_temperature, jnp.float32), potentials, weights)
    fixed = jax.lax.stop_gradient(fixed)
    return _cross_entropy(student, student_prototypes, fixed, student_temperature, chunk)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _cross_entropy(student: Array, prototypes: Array, fixed: tuple, temperature: float, chunk: int) -> Array:
    return _compute(student, prototypes, fixed, temperature, chunk, gradient=False)[0]


def _forward(student: Array, prototypes: Array, fixed: tuple, temperature: float, chunk: int) -> tuple[Array, tuple]:
    return _compute(student, prototypes, fixed, temperature, chunk, gradient=True)


def _backward(temperature: float, chunk: int, gradient: tuple, factor: Array) -> tuple:
    return factor * gradient[0], factor * gradient[1], None


def _compute(
    student: Array, prototypes: Array, fixed: tuple, temperature: float, chunk: int, gradient: bool
) -> tuple[Array, tuple]:
    """Returns the loss, and its gradient by the student's vectors and prototypes if wanted."""
    size = even_size(student.shape[1], chunk)
    split, rows = split_axes(prototypes.shape[1]), row_axes()

    def local(student: Array, prototypes: Array, fixed: tuple, used: Array) -> tuple[Array, tuple]:
        teacher, teacher_prototypes, teacher_temperature, potentials, weights = fixed
        places = student.shape[1]
        student, teacher, weights = padded(student, size), padded(teacher, size), padded(weights, size)

        def add(index: Array, carry: tuple) -> tuple:
            loss, gradients = carry
            vectors, weight = part(student, index, size), part(weights, index, size)[:, None]
            scores = part(teacher, index, size) @ teacher_prototypes
            assignment, _ = softmax_over(scores / teacher_temperature - potentials, split)
            logits = vectors @ prototypes / temperature
            prediction, normaliser = softmax_over(logits, split)
            losses = normaliser - sum_over(jnp.sum(assignment * logits, axis=-1, keepdims=True), split)
            loss += jnp.sum(weight * losses)
            if gradient:
                of_scores = (prediction - assignment) * (weight / temperature)
                of_student, of_prototypes = gradients
                of_student = put_part(of_student, of_scores @ prototypes.T, index, size)
                gradients = of_student, of_prototypes + vectors.T @ of_scores
            return loss, gradients

        zeros = (jnp.zeros_like(student), jnp.zeros_like(prototypes)) if gradient else ()
        loss, gradients = over_parts(add, (jnp.float32(0.0), zeros), used, student.shape[1], size)
        if gradient:
            gradients = sum_over(gradients[0][:, :places], split), sum_over(gradients[1], rows)
        return sum_over(loss, rows), gradients

    counted: Bool[Array, "R M"] = fixed[-1] != 0
    columns, whole = PartitionSpec(None, *split), PartitionSpec()
    fixed_specs = (BATCH_SPEC, columns, whole, PartitionSpec(*split), BATCH_SPEC)
    return shard_map_if_mesh(
        local,
        in_specs=(BATCH_SPEC, columns, fixed_specs, whole),
        out_specs=(whole, (BATCH_SPEC, columns) if gradient else ()),
    )(student, prototypes, fixed, used_parts(counted, size))


_cross_entropy.defvjp(_forward, _backward)
