"""The gradient of the whole batch, computed in parts: exact for losses that are no sum over rows.

GradCache (Gao et al. 2021, arXiv 2101.06983): the towers' outputs of every part are computed without keeping what a
backward pass needs; the loss is taken of all of them together; then each part is computed again, and the gradient of
its outputs is carried back. The towers thus hold one part at a time, and the loss has every clip of the batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from slap_jax.batch import PackedBatch
from slap_jax.parallel.sharding import BATCH_SPEC, constrain

Features = Any  # a pytree of arrays whose leading axis is the batch's rows
Rows = tuple[PackedBatch, Int[Array, " R"]]  # rows of the batch, and their numbers


def split_rows(tree: Any, parts: int) -> Any:
    """Cuts the row axis: [R, ...] to [parts, R / parts, ...]; part i has the rows i, i + parts, i + 2 parts, ....

    Every device finds rows of its own in each part, so that nothing is sent.
    """

    def split(x: Array) -> Array:
        x = jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)
        return constrain(x, PartitionSpec(None, *BATCH_SPEC))

    return jax.tree.map(split, tree)


def merge_rows(tree: Any) -> Any:
    """Undoes `split_rows`."""

    def merge(x: Array) -> Array:
        return constrain(jnp.swapaxes(x, 0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:]), BATCH_SPEC)

    return jax.tree.map(merge, tree)


def gradient_in_parts(
    features: Callable[[Any, Rows], Features],
    loss: Callable[[Any, Features], tuple[Float[Array, ""], Any]],
    params: Any,
    rows: Rows,
    parts: int,
) -> tuple[tuple[Float[Array, ""], Any], Any]:
    """Returns what `jax.value_and_grad(lambda params: loss(params, features(params, rows)), has_aux=True)` does.

    Args:
        features: of parameters and some rows; must treat every row alike, whatever rows are beside it.
        loss: of parameters and the features of all rows; returns the loss and more to hand on.
        params: differentiated.
        rows: all rows.
        parts: into how many they are cut; divides R.
    """
    cut = split_rows(rows, parts)
    _, stacked = jax.lax.scan(lambda carry, part: (carry, features(params, part)), None, cut)
    leaves, structure = jax.tree.flatten(merge_rows(stacked))
    smooth = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def loss_of_smooth(params: Any, values: list[Array]) -> tuple[Float[Array, ""], Any]:
        values = list(values)
        every = [values.pop(0) if is_smooth else leaf for leaf, is_smooth in zip(leaves, smooth, strict=True)]
        return loss(params, jax.tree.unflatten(structure, every))

    values = [leaf for leaf, is_smooth in zip(leaves, smooth, strict=True) if is_smooth]
    result, (gradient, pulls) = jax.value_and_grad(loss_of_smooth, argnums=(0, 1), has_aux=True)(params, values)

    def replay(gradient: Any, part: tuple[Rows, list[Array]]) -> tuple[Any, None]:
        rows, pulls = part

        def smooth_features(params: Any) -> list[Array]:
            found = jax.tree.leaves(features(params, rows))
            return [leaf for leaf, is_smooth in zip(found, smooth, strict=True) if is_smooth]

        _, pull = jax.vjp(smooth_features, params)
        return jax.tree.map(jnp.add, gradient, pull(pulls)[0]), None

    gradient, _ = jax.lax.scan(replay, gradient, (cut, split_rows(pulls, parts)))
    return result, gradient
