"""The endless training stream: sources are shuffled each epoch, mixed by weight, and cut into D virtual shards.

Virtual shard v of D holds every D-th clip of the stream, packs its own rows and has its own small state. Host p of P
drives D / P shards and concatenates their rows in shard order, so all hosts together produce the same global batch for
every P that divides D, and a state saved by P hosts restores on any other number of them. A host may distribute its
shards over worker processes in the same way. The data order therefore depends on the seed and the step, not on hosts,
workers or threads.

The stream is computed, not stored: any position of any shard is available at once on any host, and a source of 100
million clips costs no more than a source of a hundred.
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

# Grain's index shuffle permutes at least 2^16 indices and skips those out of range: for fewer clips a table is faster.
_TABLE_CLIPS = 1 << 16

# With 4 rounds the records at neighbouring positions of a million correlate by up to 0.44, with 8 by less than 0.02.
_SHUFFLE_ROUNDS = 8

Row = TypeVar("Row")


@dataclasses.dataclass(frozen=True, slots=True)
class ClipReference:
    """A clip of the training stream that has not been read yet.

    Attributes:
        source: index of the source in the mixture.
        position: position in the endless stream of that source over all shards; epoch = position // clips of the
            source.
        record: index of the record in the source's split.
    """

    source: int
    position: int
    record: int


def mixing_weights(weights: Sequence[float], clips: Sequence[int], temperature: float | None) -> list[float]:
    """Returns the fraction of each source in the stream.

    Args:
        weights: as the config gives them.
        clips: number of clips of each source.
        temperature: None uses the weights as they are. T multiplies them by clips^(1/T): 1 draws every clip equally
            often, a larger T favours small sources (arXiv 1907.05019, section 3.2).

    Returns:
        Fractions that sum to 1.
    """
    if temperature is not None:
        weights = [weight * count ** (1.0 / temperature) for weight, count in zip(weights, clips, strict=True)]
    total = sum(weights)
    return [weight / total for weight in weights]


def clip_references(
    clips: Mapping[str, int], fractions: Sequence[float], seed: int, shard: int, num_shards: int
) -> grain.MapDataset[ClipReference]:
    """Returns the endless stream of one virtual shard.

    Sources are shuffled before they are cut into shards, so an epoch covers the whole source for any number of shards.

    Args:
        clips: source -> number of its clips.
        fractions: fraction of each source in the stream.
        seed: seed of the run.
        shard: index of the virtual shard.
        num_shards: D.
    """
    parts = []
    for number, (name, count) in enumerate(clips.items()):
        refer = functools.partial(_refer, number, count, functools.partial(derive_seed, seed, "order", name))
        parts.append(grain.MapDataset.range(count).repeat().map_with_index(refer)[shard::num_shards])
    return parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, list(fractions))


def host_shards(num_shards: int, process_index: int, process_count: int) -> range:
    """Returns the shards of one host.

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
    """Takes rows from several shards in turn.

    Attributes:
        shards: their indices.
    """

    def __init__(self, rows_of: Callable[[int], grain.IterDataset], shards: Sequence[int], rows_per_shard: int):
        """Opens the shards at their beginning; nothing is read before the first `next()`.

        Args:
            rows_of: shard index -> its endless stream of rows.
            shards: indices of the shards.
            rows_per_shard: number of rows that each `next()` takes from each shard.
        """
        self.shards = tuple(shards)
        self._rows_per_shard = rows_per_shard
        self._iterators = {shard: iter(rows_of(shard)) for shard in self.shards}

    def __next__(self) -> list[Row]:
        """Returns the next rows of every shard, in shard order."""
        return [next(iterator) for iterator in self._iterators.values() for _ in range(self._rows_per_shard)]

    def get_state(self) -> dict[str, dict[str, Any]]:
        """Returns shard -> state after the rows taken, as JSON values."""
        return {str(shard): iterator.get_state() for shard, iterator in self._iterators.items()}

    def set_state(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Resumes after the rows that `states` describes; it may contain other shards too."""
        for shard, iterator in self._iterators.items():
            iterator.set_state(states[str(shard)])

    def close(self) -> None:
        """Stops the threads that read ahead."""
        for iterator in self._iterators.values():
            iterator.close()


def derive_seed(*parts: object) -> int:
    """Hashes the parts to a 31-bit seed: seeds differ wherever any part differs."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_at(seed: int, position: int) -> np.random.Generator:
    """Returns the random generator of one position of a stream: `fold_in` on the host."""
    return np.random.Generator(np.random.Philox(key=[seed, position]))


def _refer(source: int, count: int, seed_of_epoch: Callable[[int], int], position: int, index: int) -> ClipReference:
    seed = seed_of_epoch(position // count)
    if count <= _TABLE_CLIPS:
        return ClipReference(source, position, int(_shuffled_table(count, seed)[index]))
    # Grain's `shuffle()` with more rounds.
    record = grain.experimental.index_shuffle(index, max_index=count - 1, seed=seed, rounds=_SHUFFLE_ROUNDS)
    return ClipReference(source, position, record)


@functools.lru_cache(maxsize=256)
def _shuffled_table(count: int, seed: int) -> Int32[np.ndarray, " count"]:
    """Returns the order of one epoch of one source; raw Philox output is the same in every NumPy version."""
    return np.argsort(np.random.Philox(key=seed).random_raw(count), kind="stable").astype(np.int32)
