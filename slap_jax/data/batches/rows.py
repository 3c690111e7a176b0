"""Packed rows: first clips are assigned to rows by their sizes, then each clip is decoded into its place.

A few rows are open at a time. A clip goes into the fullest open row that has room for it; if none has, the fullest row
is emitted and a new one is opened. Grain's first-fit fills all open rows and then emits them at once. Here rows are
fuller with fewer of them open (docs/data_format.md, "How full rows get") and come one at a time instead of in bursts.
The state is the list of the clips in the open rows, so resuming decodes nothing.

    clip references ─ ClipPlanner ─ RowPacker ─ RowAssembler ─► PackedBatch
    (stream.py)       (clips.py)    one thread  decode threads
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import grain
import numpy as np
from ml_collections import ConfigDict

from slap_jax.batch import LabelledBatch, PackedBatch
from slap_jax.config.defaults import classes_in_batch, samples_per_column
from slap_jax.data.audio import decode_flac_into
from slap_jax.data.batches.augment import Augmenter
from slap_jax.data.batches.clips import ClipPlanner, PlannedClip, mix_into, write_classes
from slap_jax.data.batches.prefetch import Prefetch
from slap_jax.data.batches.stream import VirtualShards, clip_references, derive_seed, generator_at
from slap_jax.data.packing import empty_rows, write_slot
from slap_jax.data.processes import map_in_order
from slap_jax.data.records import Records, open_split
from slap_jax.data.tokenizer import Tokenizer

# Records that each read thread of a shard holds ready, compressed, for storage with a high latency.
_READ_AHEAD = 16

# Placeholder for a clip of a restored open row, which is read again only when its row is emitted.
_NOT_READ = object()

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Placed(Generic[Item]):
    """An item in a row.

    Attributes:
        item: what is packed.
        columns: number of audio columns that it occupies.
        tokens: number of text tokens that it occupies.
    """

    item: Item
    columns: int
    tokens: int


@dataclasses.dataclass
class _OpenRow(Generic[Item]):
    placed: list[Placed[Item]] = dataclasses.field(default_factory=list)
    columns: int = 0
    tokens: int = 0

    def add(self, placed: Placed[Item]) -> None:
        self.placed.append(placed)
        self.columns += placed.columns
        self.tokens += placed.tokens


class RowPacker(Generic[Item]):
    """Best-fit packing with a fixed number of open rows."""

    def __init__(self, columns: int, text_tokens: int, slots: int, bins: int):
        """Opens `bins` empty rows.

        Args:
            columns: C of a row.
            text_tokens: T of a row.
            slots: K, the largest number of items in a row.
            bins: number of rows that are open at a time.
        """
        self._room = (columns, text_tokens, slots)
        self._rows: list[_OpenRow[Item]] = [_OpenRow() for _ in range(bins)]

    @property
    def open_rows(self) -> list[list[Placed[Item]]]:
        """The items of each open row; these lists grow while packing continues."""
        return [row.placed for row in self._rows]

    def restore(self, open_rows: Sequence[Sequence[Placed[Item]]]) -> None:
        """Continues with the open rows of another packer of the same sizes."""
        self._rows = [_OpenRow() for _ in open_rows]
        for row, items in zip(self._rows, open_rows, strict=True):
            for placed in items:
                row.add(placed)

    def add(self, item: Item, columns: int, tokens: int) -> list[Placed[Item]] | None:
        """Places an item.

        Args:
            item: item to place.
            columns: that it occupies, at most C.
            tokens: that it occupies, at most T.

        Returns:
            The items of the row that had to be emitted to make room, or None.

        Raises:
            ValueError: the item is larger than a row.
        """
        max_columns, max_tokens, slots = self._room
        if columns > max_columns or tokens > max_tokens:
            raise ValueError(
                f"a clip takes {columns} columns and {tokens} text tokens; a row has {max_columns} and {max_tokens}"
            )
        best, best_columns = None, -1
        for row in self._rows:
            if (
                best_columns < row.columns <= max_columns - columns
                and row.tokens <= max_tokens - tokens
                and len(row.placed) < slots
            ):
                best, best_columns = row, row.columns
        emitted = None
        if best is None:
            index = max(range(len(self._rows)), key=self._fullness)
            emitted = self._rows.pop(index).placed
            best = _OpenRow()
            # The oldest row stays first, and `max` takes the first of equally full rows, so no row waits forever.
            self._rows.append(best)
        best.add(Placed(item, columns, tokens))
        return emitted

    def _fullness(self, index: int) -> float:
        """Returns the used fraction of the scarcest resource: a row without slots is as full as one without columns."""
        row, (columns, tokens, slots) = self._rows[index], self._room
        return max(row.columns / columns, row.tokens / tokens, len(row.placed) / slots)


class PackedRows(grain.IterDataset):
    """A Grain dataset of rows; each row is a list of clips in slot order."""

    def __init__(
        self,
        clips: grain.MapDataset,
        size_of: Callable[[Any], tuple[int, int]],
        source_of: Callable[[Any], int],
        sources: int,
        packer: Callable[[], RowPacker],
        reading: grain.ReadOptions,
    ):
        """Packs an endless dataset of clips.

        Args:
            clips: endless, with random access, because a restored iterator reads the clips of its open rows again.
            size_of: clip -> its numbers of columns and tokens.
            source_of: clip -> index of its source.
            sources: number of sources.
            packer: creates the packer of one iterator.
            reading: threads and buffer for reading clips ahead.
        """
        super().__init__()
        self.clips, self.size_of, self.source_of, self.sources = clips, size_of, source_of, sources
        self.packer, self.reading = packer, reading

    def __iter__(self) -> "_PackedRowsIterator":
        return _PackedRowsIterator(self)


class _PackedRowsIterator(grain.DatasetIterator):
    """Its state: the position in the stream, the number of clips taken from each source, and the open rows."""

    def __init__(self, dataset: PackedRows):
        super().__init__()
        self._dataset = dataset
        self._packer: RowPacker[tuple[int, Any]] = dataset.packer()
        self._taken = [0] * dataset.sources
        self._seek(0)

    def __next__(self) -> list[Any]:
        emitted = None
        while emitted is None:
            clip = next(self._clips)
            columns, tokens = self._dataset.size_of(clip)
            emitted = self._packer.add((self._position, clip), columns, tokens)
            self._taken[self._dataset.source_of(clip)] += 1
            self._position += 1
        clips = self._dataset.clips
        return [clips[position] if clip is _NOT_READ else clip for position, clip in (p.item for p in emitted)]

    def get_state(self) -> dict[str, Any]:
        return {
            "position": self._position,
            "taken": list(self._taken),
            "open": [
                [[placed.item[0], placed.columns, placed.tokens] for placed in row] for row in self._packer.open_rows
            ],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._clips.close()
        self._seek(state["position"])
        self._taken = list(state["taken"])
        self._packer.restore(
            [
                [Placed((position, _NOT_READ), columns, tokens) for position, columns, tokens in row]
                for row in state["open"]
            ]
        )

    def close(self) -> None:
        super().close()
        self._clips.close()

    def _seek(self, position: int) -> None:
        """Moves to any position of the stream at once, because the stream is computed."""
        self._position = position
        self._clips = iter(self._dataset.clips[position:].to_iter_dataset(self._dataset.reading))


def open_sources(config: ConfigDict) -> dict[str, Records]:
    """Opens the training sources in the order of the config; reads only their metadata.

    Raises:
        RecordsError: a source is not prepared or lacks the split.
    """
    return {name: open_split(source.path, source.split) for name, source in config.data.train.items()}


def planned_rows(
    config: ConfigDict,
    tokenizer: Tokenizer,
    sources: Mapping[str, Records],
    fractions: Sequence[float],
    shards: Sequence[int],
) -> VirtualShards[list[PlannedClip]]:
    """Returns the endless rows of some shards before decoding; each row is a list of clips in slot order.

    Args:
        config: the whole config; `seed`, `audio`, `data` and `objectives` are used.
        tokenizer: tokenizer of `config.data.tokenizer`.
        sources: result of `open_sources`.
        fractions: fraction of each source in the stream.
        shards: indices of the virtual shards.
    """
    data = config.data
    planner = ClipPlanner(config, tokenizer, sources)
    clips = {name: len(records) for name, records in sources.items()}
    threads = -(-data.read_threads // len(shards))
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_READ_AHEAD * threads)

    def rows_of(shard: int) -> PackedRows:
        return PackedRows(
            clip_references(clips, fractions, config.seed, shard, data.virtual_shards).map(planner),
            size_of=planner.size_of,
            source_of=lambda clip: clip.reference.source,
            sources=len(clips),
            packer=lambda: RowPacker(data.columns, data.text_tokens, data.slots, data.packing_bins),
            reading=reading,
        )

    return VirtualShards(rows_of, shards, data.rows // data.virtual_shards)


class ShardRows:
    """Endless iterator over the rows of some shards. Its state follows the rows returned, not those planned ahead."""

    def __init__(
        self,
        config: ConfigDict,
        tokenizer: Tokenizer,
        sources: Mapping[str, Records],
        fractions: Sequence[float],
        shards: Sequence[int],
        augmenter: Augmenter,
    ):
        """Takes the arguments of `planned_rows` and `RowAssembler`; reads no clip before the first `next()`."""
        self._shards = planned_rows(config, tokenizer, sources, fractions, shards)
        self._assemble = RowAssembler(config, sources, augmenter)
        self._planned: Prefetch[Any] | None = None

    def __next__(self) -> PackedBatch:
        """Returns the next rows [R · shards / D, ...], in NumPy."""
        if self._planned is None:
            # The next batch is planned while this one is decoded.
            self._planned = Prefetch(self._shards, lambda rows: rows, depth=1)
        return self._assemble(next(self._planned))

    def get_state(self) -> dict[str, dict[str, Any]]:
        """Returns shard -> state after the rows returned."""
        return self._shards.get_state() if self._planned is None else self._planned.state

    def set_state(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Resumes after the rows that `states` describes."""
        self._stop_planning()
        self._shards.set_state(states)

    def close(self) -> None:
        """Stops the threads; the state is kept."""
        state = self.get_state()
        self._stop_planning()
        self._shards.set_state(state)
        self._shards.close()

    def _stop_planning(self) -> None:
        if self._planned is not None:
            self._planned.close()
            self._planned = None


class RowAssembler:
    """Decodes the clips of planned rows into the arrays of a batch, with one thread per row at most."""

    def __init__(self, config: ConfigDict, sources: Mapping[str, Records], augmenter: Augmenter):
        """Reads the settings.

        Args:
            config: the whole config; `seed`, `audio`, `data` and `objectives` are used.
            sources: the opened splits, in the order of `config.data.train`.
            augmenter: augmenter of `config.data.augment`.
        """
        self._data, self._samples_per_column = config.data, samples_per_column(config.audio)
        self._classes = classes_in_batch(config)
        self._augmenter = augmenter
        self._seeds = [derive_seed(config.seed, "augment", name) for name in sources]
        self._threads = max(1, config.data.decode_threads)

    def __call__(self, rows: Sequence[Sequence[PlannedClip]]) -> PackedBatch:
        """Returns the rows as arrays.

        Raises:
            AudioError: a record's audio is damaged.
        """
        data = self._data
        sizes = (len(rows), data.columns, data.slots, data.text_tokens, self._samples_per_column)
        batch = empty_rows(*sizes, classes=self._classes)

        def write(row: int) -> None:
            self._write_row(batch, row, rows[row])

        if self._threads == 1:
            for row in range(len(rows)):
                write(row)
        else:
            for _ in map_in_order(write, range(len(rows)), self._threads, ahead=len(rows)):
                pass
        return batch

    def _write_row(self, batch: PackedBatch, row: int, clips: Sequence[PlannedClip]) -> None:
        column = token = 0
        waveform: np.ndarray = batch.waveform[row]
        for slot, clip in enumerate(clips):
            record, reference = clip.record, clip.reference
            begin = column * self._samples_per_column
            heard = waveform[begin : begin + clip.lead_in + clip.samples]
            samples = heard[clip.lead_in :]
            decode_flac_into(record.audio, samples, clip.start, f"record {record.source}/{record.id}")
            if clip.mixed is not None:
                mix_into(samples, clip.mixed)
            if isinstance(batch, LabelledBatch):
                write_classes(batch.clip_labels[row, slot], clip.classes, clip.mixed)
            if self._augmenter.active:
                generator = generator_at(self._seeds[reference.source], reference.position)
                self._augmenter(heard, generator, clip.lead_in)
            columns = clip.columns(self._samples_per_column)
            write_slot(batch, row, slot, column, columns, token, clip.tokens, record.key, reference.source)
            column, token = column + columns, token + len(clip.tokens)
