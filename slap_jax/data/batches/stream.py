"""The endless training stream: each source shuffled anew each epoch, mixed by weights, cut into D virtual shards.

Everything here is arithmetic on positions, so that any position of any shard is known at once, on any host, and a
source of 100 million clips costs no more than one of a hundred.

D virtual shards: the data order depends on the seed and the step alone, not on hosts, workers or threads.

Shard v of D owns every D-th clip of the endless shuffled stream, packs its own rows and has its own small state. Host p
of P drives D / P shards and concatenates their rows in shard order, so the hosts' rows together are the same global
batch for every P that divides D, and a state saved by P hosts serves any other number of them. A host may spread its
shards over worker processes in the same way.

Seeds that differ wherever anything that they are derived from differs.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import grain
import numpy as np
from jaxtyping import Int32

from slap_jax.config.rules import ConfigError

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


Row = TypeVar("Row")


def host_shards(num_shards: int, process_index: int, process_count: int) -> range:
    """Returns the shards that one host drives.

    Raises:
        ConfigError: `process_count` does not divide `num_shards`.
    """
    if num_shards % process_count:
        raise ConfigError(
            f"config.data.virtual_shards is {num_shards}, not a multiple of the {process_count} hosts; "
            "write a multiple of every number of hosts that may ever resume this run"
        )
    each = num_shards // process_count
    return range(process_index * each, (process_index + 1) * each)


class VirtualShards(Generic[Row]):
    """Takes rows of some shards in turn.

    Attributes:
        shards: their numbers.
    """

    def __init__(self, rows_of: Callable[[int], grain.IterDataset], shards: Sequence[int], rows_per_shard: int):
        """Opens the shards at their beginning; nothing is read before the first `next()`.

        Args:
            rows_of: shard number -> its endless stream of rows.
            shards: numbers of the shards.
            rows_per_shard: rows that each `next()` takes of each.
        """
        self.shards = tuple(shards)
        self._rows_per_shard = rows_per_shard
        self._iterators = {shard: iter(rows_of(shard)) for shard in self.shards}

    def __next__(self) -> list[Row]:
        """Returns the next rows of every shard, shard by shard in their order."""
        return [next(iterator) for iterator in self._iterators.values() for _ in range(self._rows_per_shard)]

    def get_state(self) -> dict[str, dict[str, Any]]:
        """Returns shard number -> state after the rows taken, as JSON values."""
        return {str(shard): iterator.get_state() for shard, iterator in self._iterators.items()}

    def set_state(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Continues after the rows that `states` has seen; `states` may hold other shards too."""
        for shard, iterator in self._iterators.items():
            iterator.set_state(states[str(shard)])

    def close(self) -> None:
        """Stops reading ahead."""
        for iterator in self._iterators.values():
            iterator.close()


def derive_seed(*parts: object) -> int:
    """Returns a 31-bit seed of the parts' texts."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_at(seed: int, place: int) -> np.random.Generator:
    """Returns the generator of one place of a stream: the counterpart of `fold_in` on the host."""
    return np.random.Generator(np.random.Philox(key=[seed, place]))
