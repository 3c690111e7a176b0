"""D virtual shards: the data order depends on the seed and the step alone, not on hosts, workers or threads.

Shard v of D owns every D-th clip of the endless shuffled stream, packs its own rows and has its own small state. Host p
of P drives D / P shards and concatenates their rows in shard order, so the hosts' rows together are the same global
batch for every P that divides D, and a state saved by P hosts serves any other number of them. A host may spread its
shards over worker processes in the same way.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import grain

from slap_jax.config import ConfigError

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
