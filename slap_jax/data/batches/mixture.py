"""The endless training stream: each source shuffled anew each epoch, mixed by weights, cut into D virtual shards.

Everything here is arithmetic on positions, so that any position of any shard is known at once, on any host, and a
source of 100 million clips costs no more than one of a hundred.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np
from jaxtyping import Int32

from slap_jax.data.batches.seeds import derive_seed

# The cipher that shuffles by arithmetic works on 2^16 places or more: for fewer clips a table is faster.
_TABLE_CLIPS = 1 << 16
# With 4 rounds the records of neighbouring places of a million correlate by up to 0.44, with 8 by less than 0.02.
_SHUFFLE_ROUNDS = 8


@dataclasses.dataclass(frozen=True, slots=True)
class ClipReference:
    """A place in the training stream, before anything is read.

    Attributes:
        source: number of the source in the mixture.
        place: in the endless stream of that source, over all shards: epoch = place // clips of the source.
        record: number of the record in the source's split.
    """

    source: int
    place: int
    record: int


def mixing_weights(weights: Sequence[float], clips: Sequence[int], temperature: float | None) -> list[float]:
    """Returns each source's share of the stream.

    Args:
        weights: as the config gives them.
        clips: of each source.
        temperature: None takes the weights as they are; T multiplies them by clips^(1/T): 1 draws every clip equally
            often, a larger T raises the share of small sources (arXiv 1907.05019, section 3.2).

    Returns:
        Shares that sum to 1.
    """
    if temperature is not None:
        weights = [weight * count ** (1.0 / temperature) for weight, count in zip(weights, clips, strict=True)]
    total = sum(weights)
    return [weight / total for weight in weights]


def clip_references(
    clips: Mapping[str, int], shares: Sequence[float], seed: int, shard: int, num_shards: int
) -> grain.MapDataset[ClipReference]:
    """Returns the endless stream of one virtual shard.

    A source is shuffled first and cut into shards afterwards: an epoch is an epoch of the whole source, however many
    shards there are.

    Args:
        clips: source -> number of its clips.
        shares: of each source in the stream.
        seed: of the run.
        shard: number of the virtual shard.
        num_shards: D.
    """
    parts = []
    for number, (name, count) in enumerate(clips.items()):
        refer = functools.partial(_refer, number, count, functools.partial(derive_seed, seed, "order", name))
        parts.append(grain.MapDataset.range(count).repeat().map_with_index(refer)[shard::num_shards])
    return parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, list(shares))


def _refer(source: int, count: int, seed_of_epoch: Callable[[int], int], place: int, index: int) -> ClipReference:
    seed = seed_of_epoch(place // count)
    if count <= _TABLE_CLIPS:
        return ClipReference(source, place, int(_shuffled_table(count, seed)[index]))
    # As Grain's `shuffle()`, but with more rounds.
    record = grain.experimental.index_shuffle(index, max_index=count - 1, seed=seed, rounds=_SHUFFLE_ROUNDS)
    return ClipReference(source, place, record)


@functools.lru_cache(maxsize=256)
def _shuffled_table(count: int, seed: int) -> Int32[np.ndarray, " count"]:
    """Returns the order of one epoch of one source; the generator's raw numbers are the same in every NumPy version."""
    return np.argsort(np.random.Philox(key=seed).random_raw(count), kind="stable").astype(np.int32)
