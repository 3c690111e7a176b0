"""What a clip counts in an objective: the factors of `config.data.train.NAME.objectives`, looked up on the device.

Each objective is a mean, over clips or over tokens; with factors it is a weighted mean, so only their ratios matter.
Where all sources count alike there are no weights at all, and the program is the one without them.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch


def clip_weights(batch: PackedBatch, sources: ConfigDict, objective: str) -> Float[Array, "R K"] | None:
    """Returns what each clip counts in an objective, 0 for empty slots; None where all sources count alike.

    Args:
        batch: of which `clip_source` and `clip_valid` are read.
        sources: `config.data.train`, in whose order `clip_source` numbers the sources.
        objective: key of each source's `objectives`.
    """
    factors = [float(sources[name].objectives[objective]) for name in sources]
    if len(set(factors)) <= 1:
        return None
    return jnp.where(batch.clip_valid, jnp.asarray(factors, jnp.float32)[batch.clip_source], 0.0)


def token_weights(weights: Float[Array, "R K"], segments: Int[Array, "R L"]) -> Float[Array, "R L"]:
    """Gives every token what its clip counts, and padding (segment 0) nothing."""
    return jnp.take_along_axis(jnp.pad(weights, ((0, 0), (1, 0))), segments, axis=1)


def weighted(values: Shaped[Array, "..."], weights: Float[Array, "..."] | None) -> Shaped[Array, "..."]:
    """Multiplies by the weights, if there are any."""
    return values if weights is None else values * weights


def total_weight(counted: Bool[Array, "..."], weights: Float[Array, "..."] | None) -> Array:
    """The sum of the weights of what is counted, or its number without weights; 1 for nothing, so that it divides."""
    if weights is None:
        return jnp.maximum(jnp.sum(counted), 1)
    total = jnp.sum(jnp.where(counted, weights, 0.0))
    return jnp.where(total > 0, total, 1.0)
