"""D virtual shards: the data order depends on the seed and the step alone, not on how many hosts read it.

Shard v of D owns every D-th clip of the endless shuffled stream, packs its own rows and has its own small state. Host p
of P drives D / P shards and concatenates their rows in shard order, so the hosts' rows together are the same global
batch for every P that divides D, and a state saved by P hosts serves any other number of them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import numpy as np

from slap_jax.config import ConfigError
from slap_jax.data.prefetch import Prefetch

Row = Mapping[str, np.ndarray]


class VirtualShards:
    """The shards of one host, each packing ahead in a thread of its own.

    Attributes:
        shards: numbers of the shards that this host drives.
    """

    def __init__(
        self,
        rows_of: Callable[[int], grain.IterDataset],
        num_shards: int,
        process_index: int,
        process_count: int,
        read_ahead: int,
    ):
        """Opens the shards at their beginning; nothing is read before the first `take`.

        Args:
            rows_of: shard number -> its endless stream of packed rows.
            num_shards: D, a multiple of `process_count`.
            process_index: p.
            process_count: P.
            read_ahead: rows of each shard to hold ready. Rows come in bursts of as many as the packer has bins; with
                that many held ready the next burst is packed while the last one is used.

        Raises:
            ConfigError: `process_count` does not divide `num_shards`.
        """
        if num_shards % process_count:
            raise ConfigError(
                f"config.data.virtual_shards is {num_shards}, not a multiple of the {process_count} hosts; "
                "write a multiple of every number of hosts that may ever resume this run"
            )
        each = num_shards // process_count
        self.shards = range(process_index * each, (process_index + 1) * each)
        self._iterators = {shard: iter(rows_of(shard)) for shard in self.shards}
        self._read_ahead = read_ahead
        self._ahead: dict[int, Prefetch[Row]] = {}

    def take(self, rows_per_shard: int) -> Iterator[Row]:
        """Gives that many rows of each shard, shard by shard in their order."""
        if not self._ahead:
            self._ahead = {
                shard: Prefetch(iterator, lambda row: row, self._read_ahead)
                for shard, iterator in self._iterators.items()
            }
        for shard in self.shards:
            for _ in range(rows_per_shard):
                yield next(self._ahead[shard])

    def get_state(self) -> dict[str, dict[str, Any]]:
        """Returns shard number -> state after the rows taken, as JSON values."""
        if self._ahead:
            return {str(shard): ahead.state for shard, ahead in self._ahead.items()}
        return {str(shard): iterator.get_state() for shard, iterator in self._iterators.items()}

    def set_state(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Continues after the rows that `states` has seen; `states` may hold shards of other hosts too."""
        self.close()
        for shard, iterator in self._iterators.items():
            iterator.set_state(states[str(shard)])

    def close(self) -> None:
        """Stops the threads and drops what they read ahead; the next `take` continues after the last row taken."""
        for shard, ahead in self._ahead.items():
            ahead.close()
            self._iterators[shard].set_state(ahead.state)
        self._ahead = {}
