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
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from slap_jax.objectives.local_chunks import (
    even_size,
    max_over,
    over_parts,
    padded,
    part,
    row_axes,
    split_axes,
    sum_over,
    used_parts,
)
from slap_jax.parallel.per_device import ROWS, per_device

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
    return per_device(
        local,
        in_specs=(ROWS, PartitionSpec(None, *split), ROWS, PartitionSpec(), PartitionSpec()),
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
