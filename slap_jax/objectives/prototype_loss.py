"""Cross-entropy between the teacher's assignment and the student's prediction, a part of the tokens at a time."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from slap_jax.objectives.local_chunks import (
    even_size,
    over_parts,
    padded,
    part,
    put_part,
    row_axes,
    split_axes,
    sum_over,
    used_parts,
)
from slap_jax.objectives.sinkhorn import softmax_over
from slap_jax.parallel.per_device import ROWS, per_device


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


_cross_entropy.defvjp(_forward, _backward)


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
    fixed_specs = (ROWS, columns, whole, PartitionSpec(*split), ROWS)
    return per_device(
        local,
        in_specs=(ROWS, columns, fixed_specs, whole),
        out_specs=(whole, (ROWS, columns) if gradient else ()),
    )(student, prototypes, fixed, used_parts(counted, size))
