"""The packed rows of some virtual shards: clips are planned in one thread and decoded in others."""

from collections.abc import Mapping, Sequence
from typing import Any

import grain
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.data.batches.augment import Augmenter
from slap_jax.data.batches.clip_planning import ClipPlanner, PlannedClip
from slap_jax.data.batches.mixture import clip_references
from slap_jax.data.batches.prefetch import Prefetch
from slap_jax.data.batches.row_assembly import RowAssembler
from slap_jax.data.batches.row_packing import PackedRows, RowPacker
from slap_jax.data.batches.virtual_shards import VirtualShards
from slap_jax.data.records import Records, open_split
from slap_jax.data.tokenizer import Tokenizer

# Records that a shard's threads hold ready, compressed, where storage is too slow to be read as it is needed.
_READ_AHEAD = 16


def open_sources(config: ConfigDict) -> dict[str, Records]:
    """Opens the training sources, in the order of the config; reads only their indexes.

    Raises:
        RecordsError: a source is not prepared or lacks the split.
    """
    return {name: open_split(source.path, source.split) for name, source in config.data.train.items()}


def planned_rows(
    config: ConfigDict,
    tokenizer: Tokenizer,
    sources: Mapping[str, Records],
    shares: Sequence[float],
    shards: Sequence[int],
) -> VirtualShards[list[PlannedClip]]:
    """Returns the endless rows of some shards before their audio is decoded: each a list of clips in slot order.

    Args:
        config: the whole config; `seed`, `audio` and `data` are used.
        tokenizer: of `config.data.tokenizer`.
        sources: of `open_sources`.
        shares: of each source in the stream.
        shards: numbers of the virtual shards.
    """
    data = config.data
    planner = ClipPlanner(config, tokenizer, sources)
    clips = {name: len(records) for name, records in sources.items()}
    threads = -(-data.read_threads // len(shards))
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_READ_AHEAD * threads)

    def rows_of(shard: int) -> PackedRows:
        return PackedRows(
            clip_references(clips, shares, config.seed, shard, data.virtual_shards).map(planner),
            size_of=planner.size_of,
            source_of=lambda clip: clip.reference.source,
            sources=len(clips),
            packer=lambda: RowPacker(data.columns, data.text_tokens, data.slots, data.packing_bins),
            reading=reading,
        )

    return VirtualShards(rows_of, shards, data.rows // data.virtual_shards)


class ShardRows:
    """Endless iterator over the rows of some shards; its state is that of the rows given."""

    def __init__(
        self,
        config: ConfigDict,
        tokenizer: Tokenizer,
        sources: Mapping[str, Records],
        shares: Sequence[float],
        shards: Sequence[int],
    ):
        """Reads no clip before the first `next()`; the arguments are those of `planned_rows`."""
        self._shards = planned_rows(config, tokenizer, sources, shares, shards)
        self._assemble = RowAssembler(config, sources, Augmenter(config.data.augment))
        self._planned: Prefetch[Any] | None = None

    def __next__(self) -> PackedBatch:
        """Returns the next rows [R · shards / D, ...], in numpy."""
        if self._planned is None:
            # While one batch is decoded the next one is planned.
            self._planned = Prefetch(self._shards, lambda rows: rows, depth=1)
        return self._assemble(next(self._planned))

    def get_state(self) -> dict[str, dict[str, Any]]:
        """Returns shard number -> state after the rows given."""
        return self._shards.get_state() if self._planned is None else self._planned.state

    def set_state(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Continues after the rows that `states` has seen."""
        self._stop_planning()
        self._shards.set_state(states)

    def close(self) -> None:
        """Stops the threads; the state stays that of the rows given."""
        state = self.get_state()
        self._stop_planning()
        self._shards.set_state(state)
        self._shards.close()
        self._assemble.close()

    def _stop_planning(self) -> None:
        if self._planned is not None:
            self._planned.close()
            self._planned = None
