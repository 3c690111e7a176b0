"""Which patches the student does not see, and where they lie: exact counts per clip, static shapes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key


def segment_counts(segments: Int[Array, "R L"], slots: int) -> Int[Array, "R K+1"]:
    """Tokens of every segment; index 0 counts the padding."""
    return jax.vmap(lambda row: jnp.zeros(slots + 1, jnp.int32).at[row].add(1))(segments)


def random_mask(keys: Key[Array, " R"], segments: Int[Array, "R L"], slots: int, ratio: float) -> Bool[Array, "R L"]:
    """Masks `round(ratio * n)` of the n tokens of each clip, uniformly at random.

    Args:
        keys: randomness of each row, so that a row's mask does not depend on the rows beside it.
        segments: slot of each token, 0 for padding, which is never masked.
        slots: K.
        ratio: share to mask.

    Returns:
        True where the student sees the mask token.
    """
    rows, length = segments.shape
    noise = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys)
    token = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), segments.shape)
    # Sorting by (segment, noise) lays the clips one after the other, each in random order; a token's rank in its
    # clip is then its place less the place where its clip starts.
    _, _, order = jax.lax.sort((segments, noise, token), num_keys=2)
    place = jnp.zeros_like(order).at[jnp.arange(rows)[:, None], order].set(token)
    counts = segment_counts(segments, slots)
    starts = jnp.cumsum(counts, axis=1) - counts
    rank = place - jnp.take_along_axis(starts, segments, axis=1)
    masked = jnp.round(ratio * counts).astype(jnp.int32)
    return (rank < jnp.take_along_axis(masked, segments, axis=1)) & (segments > 0)


def masked_positions(
    mask: Bool[Array, "R L"], slots: int, ratio: float
) -> tuple[Int[Array, "R M"], Bool[Array, "R M"]]:
    """Gathers the masked positions of each row into a fixed number of places.

    Returns:
        Positions, masked ones first, and which of the places hold one. M is the most that `random_mask` can mask:
        each of the K clips rounds up by at most a half.
    """
    length = mask.shape[1]
    limit = min(length, int(ratio * length + 0.5 * slots) + 1)
    order = jnp.argsort(~mask, axis=1, stable=True)[:, :limit]
    return order, jnp.take_along_axis(mask, order, axis=1)
