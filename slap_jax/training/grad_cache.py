"""GradCache: the gradient of the whole batch, computed in parts, for losses that are not a sum over rows.

Gao et al. 2021 (arXiv 2101.06983). The contrastive loss compares every clip with every other, so the gradients of
parts do not add up to the gradient of the batch. With outputs z_i = f(θ, x_i) of part i and the loss L(θ, z_1 .. z_n):

    1. forward    z_i for every part, storing no activations
    2. loss       L, its direct gradient ∂L/∂θ, and the cotangents dz_i = ∂L/∂z_i
    3. backward   g = ∂L/∂θ + Σ_i dz_iᵀ ∂z_i/∂θ, running each part forward again

Activations of one part exist at a time, and the loss sees every clip of the batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from slap_jax.batch import PackedBatch
from slap_jax.parallel.sharding import BATCH_SPEC, constrain

Outputs = Any  # a pytree of arrays whose leading axis is the batch's rows
Rows = tuple[PackedBatch, Int[Array, " R"]]  # rows of the batch, and their numbers


def value_and_grad_in_parts(
    forward: Callable[[Any, Rows], Outputs],
    loss: Callable[[Any, Outputs], tuple[Float[Array, ""], Any]],
    params: Any,
    rows: Rows,
    parts: int,
) -> tuple[tuple[Float[Array, ""], Any], Any]:
    """Returns `jax.value_and_grad(lambda params: loss(params, forward(params, rows)), has_aux=True)(params)`.

    Args:
        forward: maps parameters and some rows to outputs; a row's outputs must not depend on the other rows.
        loss: maps parameters and the outputs of all rows to the loss and an auxiliary result.
        params: θ.
        rows: all rows, with their numbers.
        parts: the number of parts; divides R.
    """
    split = split_rows(rows, parts)
    _, stacked = jax.lax.scan(lambda carry, part: (carry, forward(params, part)), None, split)
    leaves, structure = jax.tree.flatten(merge_rows(stacked))
    differentiable = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def loss_of_z(params: Any, z: list[Array]) -> tuple[Float[Array, ""], Any]:
        z = list(z)
        merged = [z.pop(0) if is_z else leaf for leaf, is_z in zip(leaves, differentiable, strict=True)]
        return loss(params, jax.tree.unflatten(structure, merged))

    z = [leaf for leaf, is_z in zip(leaves, differentiable, strict=True) if is_z]
    result, (gradient, dz) = jax.value_and_grad(loss_of_z, argnums=(0, 1), has_aux=True)(params, z)

    def backward(gradient: Any, part: tuple[Rows, list[Array]]) -> tuple[Any, None]:
        rows, dz = part

        def z_of(params: Any) -> list[Array]:
            outputs = jax.tree.leaves(forward(params, rows))
            return [leaf for leaf, is_z in zip(outputs, differentiable, strict=True) if is_z]

        _, vjp = jax.vjp(z_of, params)
        return jax.tree.map(jnp.add, gradient, vjp(dz)[0]), None

    gradient, _ = jax.lax.scan(backward, gradient, (split, split_rows(dz, parts)))
    return result, gradient


def split_rows(tree: Any, parts: int) -> Any:
    """Splits the row axis: [R, ...] to [parts, R / parts, ...]; part i has the rows i, i + parts, i + 2 parts, ....

    Strided parts hold rows of every device, so splitting moves nothing between devices.
    """

    def split(x: Array) -> Array:
        x = jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)
        return constrain(x, PartitionSpec(None, *BATCH_SPEC))

    return jax.tree.map(split, tree)


def merge_rows(tree: Any) -> Any:
    """Inverts `split_rows`."""

    def merge(x: Array) -> Array:
        return constrain(jnp.swapaxes(x, 0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:]), BATCH_SPEC)

    return jax.tree.map(merge, tree)
