"""Which patches the student does not see, and where they lie: exact counts per clip, static shapes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped


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
    length = segments.shape[1]
    noise = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys)
    token = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), segments.shape)
    # Sorting by (segment, noise) lays the clips one after the other, each in random order. Masked are the tokens before
    # the first one of their clip that is not: compared with it, no token needs to know its place.
    _, sorted_noise, order = jax.lax.sort((segments, noise, token), num_keys=2)
    counts = segment_counts(segments, slots)
    masked = jnp.round(ratio * counts).astype(jnp.int32)
    first = jnp.minimum(jnp.cumsum(counts, axis=1) - counts + masked, length - 1)  # [R, K+1]

    def of_first(values: Shaped[Array, "R L"]) -> Shaped[Array, "R L"]:
        return jnp.take_along_axis(jnp.take_along_axis(values, first, axis=1), segments, axis=1)

    before = (noise < of_first(sorted_noise)) | ((noise == of_first(sorted_noise)) & (token < of_first(order)))
    every = jnp.take_along_axis(masked == counts, segments, axis=1)
    return (before | every) & (segments > 0)


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


def gather_places(tokens: Float[Array, "R L D"], positions: Int[Array, "R M"]) -> Float[Array, "R M D"]:
    """Returns the tokens at positions that differ within each row, so that the gradient needs no sums."""
    return jax.vmap(lambda row, places: row.at[places].get(unique_indices=True, mode="promise_in_bounds"))(
        tokens, positions
    )
