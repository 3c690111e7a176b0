"""Cross-entropy over the vocabulary, a part of it at a time: no [R, T, V] logits exist, forward or backward."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def token_losses(
    hidden: Float[Array, "R T W"], table: Float[Array, "V W"], targets: Int[Array, "R T"], chunk: int
) -> tuple[Float[Array, "R T"], Bool[Array, "R T"]]:
    """Returns each token's `-log softmax(hidden @ table.T)[target]`, and whether the target is the likeliest token.

    Args:
        hidden: states that predict, in the type of the computation.
        table: output vectors of the vocabulary, in the same type; the logits are fp32.
        targets: ids to predict.
        chunk: tokens of the vocabulary at a time; their logits are computed again in the backward pass.
    """
    vocabulary, width = table.shape
    chunk = min(chunk, vocabulary)
    count = -(-vocabulary // chunk)
    parts = jnp.pad(table, ((0, count * chunk - vocabulary), (0, 0))).reshape(count, chunk, width)
    flat, wanted = hidden.reshape(-1, width), targets.reshape(-1)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def add(carry: tuple[Array, Array, Array], part: tuple[Array, Array]) -> tuple[tuple[Array, Array, Array], None]:
        highest, total, chosen = carry
        vectors, start = part
        logits = jnp.matmul(flat, vectors.T, preferred_element_type=jnp.float32)
        logits = jnp.where(start + jnp.arange(chunk) < vocabulary, logits, -jnp.inf)
        raised = jax.lax.stop_gradient(jnp.maximum(highest, jnp.max(logits, axis=-1)))
        total = total * jnp.exp(highest - raised) + jnp.sum(jnp.exp(logits - raised[:, None]), axis=-1)
        place = wanted - start
        inside = (place >= 0) & (place < chunk)
        picked = jnp.take_along_axis(logits, jnp.clip(place, 0, chunk - 1)[:, None], axis=-1)[:, 0]
        return (raised, total, jnp.where(inside, picked, chosen)), None

    size = flat.shape[0]
    start = (jnp.full(size, -jnp.inf), jnp.zeros(size), jnp.zeros(size))
    (highest, total, chosen), _ = jax.lax.scan(add, start, (parts, jnp.arange(count) * chunk))
    losses = jnp.log(total) + highest - chosen
    return losses.reshape(targets.shape), (chosen >= highest).reshape(targets.shape)
