"""From records to packed batches for training, and to whole clips for evaluation."""

import dataclasses
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from jaxtyping import Int16
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.config import ConfigError, samples_per_column
from slap_jax.data.packing import Clip, clip_element, empty_rows, pack_stream, write_row
from slap_jax.data.records import Record, Records, open_split
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.data.virtual_shards import VirtualShards


class DataMismatchError(ValueError):
    """The state of a checkpoint belongs to other data or other data settings."""


class TrainBatches:
    """Endless iterator over the packed batches of one host; what it gives depends on (config, step) alone.

    The clips of each source are shuffled anew each epoch, the sources are mixed by their weights, one caption of each
    clip is chosen and clips longer than `config.data.max_seconds` are cropped, all by the seed.
    """

    def __init__(self, config: ConfigDict, tokenizer: Tokenizer, process_index: int = 0, process_count: int = 1):
        """Opens the sources; reads no clip before the first `next()`.

        Args:
            config: the whole config; `seed`, `audio` and `data` are used.
            tokenizer: of `config.data.tokenizer`.
            process_index: number of this host.
            process_count: number of hosts; divides `config.data.virtual_shards`.

        Raises:
            RecordsError: a source is not prepared or lacks the split.
            ConfigError: hosts, virtual shards and rows that do not divide, or a weight that is not positive.
        """
        data = config.data
        if data.rows % data.virtual_shards:
            raise ConfigError(
                f"config.data.rows is {data.rows}, not a multiple of config.data.virtual_shards={data.virtual_shards}"
            )
        for name, source in data.train.items():
            if source.weight <= 0:
                raise ConfigError(f"config.data.train.{name}.weight is {source.weight}; write a number above 0")
        self._config = config
        sources = {name: open_split(source.path, source.split) for name, source in data.train.items()}
        self._fingerprint = _fingerprint(config, tokenizer, sources)
        clips = _endless_clips(config, tokenizer, sources)
        local_shards = max(1, data.virtual_shards // process_count)
        # A shard packs in a thread of its own; it gets more threads only where there are fewer shards than threads.
        threads = 0 if local_shards >= data.decode_threads else -(-data.decode_threads // local_shards)
        reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)

        def rows_of(shard: int) -> grain.IterDataset:
            return pack_stream(
                clips(shard).to_iter_dataset(reading),
                columns=data.columns,
                slots=data.slots,
                text_tokens=data.text_tokens,
                bins=data.packing_bins,
                seed=_seed(config.seed, "rows", shard),
            )

        self._shards = VirtualShards(rows_of, data.virtual_shards, process_index, process_count, data.packing_bins)
        self._rows_per_shard = data.rows // data.virtual_shards

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> PackedBatch:
        """Returns this host's rows [R / process_count, ...] of the next global batch, in numpy."""
        data = self._config.data
        batch = empty_rows(
            self._rows_per_shard * len(self._shards.shards),
            data.columns,
            data.slots,
            data.text_tokens,
            samples_per_column(self._config.audio),
        )
        for row, packed in enumerate(self._shards.take(self._rows_per_shard)):
            write_row(batch, row, packed)
        return batch

    def get_state(self) -> dict[str, Any]:
        """Returns the position after the last batch: JSON values, with the states of this host's shards only."""
        return {
            "num_shards": self._config.data.virtual_shards,
            "fingerprint": self._fingerprint,
            "states": self._shards.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues from a state, which may have been saved by another number of hosts.

        Args:
            state: of `get_state`, with the `states` of all hosts merged.

        Raises:
            DataMismatchError: other data or settings, unless `config.data.allow_mismatch`; then each shard goes on from
                its place in the stream, and rows that were packed but not yet given are packed anew.
        """
        states = dict(state["states"])
        missing = [str(shard) for shard in self._shards.shards if str(shard) not in states]
        if state["num_shards"] != self._config.data.virtual_shards or missing:
            raise DataMismatchError(
                f"the checkpoint's data position is for {state['num_shards']} virtual shards and holds "
                f"{len(states)}; config.data.virtual_shards is {self._config.data.virtual_shards}: set it to "
                f"{state['num_shards']}"
            )
        differences = describe_differences(state["fingerprint"], self._fingerprint)
        if differences:
            if not self._config.data.allow_mismatch:
                raise DataMismatchError(
                    "the data differ from those of the checkpoint, so training would not continue where it stopped:\n  "
                    + "\n  ".join(differences)
                    + "\nundo the change, or accept it with --config.data.allow_mismatch=True"
                )
            states = {shard: {**saved, "next_row": 0} for shard, saved in states.items()}
        self._shards.set_state(states)

    def close(self) -> None:
        """Stops the reading threads."""
        self._shards.close()


def describe_differences(saved: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Returns one line for each setting that differs between two fingerprints."""
    absent = "(none)"
    return [
        f"{key}: {saved.get(key, absent)} in the checkpoint, {present.get(key, absent)} now"
        for key in sorted({*saved, *present})
        if saved.get(key, absent) != present.get(key, absent)
    ]


def load_clip(
    record: Record, generator: np.random.Generator, tokenizer: Tokenizer, data: ConfigDict, audio: ConfigDict
) -> Clip:
    """Decodes a record for training: one of its captions, and of a clip that is too long, a part.

    Args:
        record: as stored.
        generator: draws the caption and the part.
        tokenizer: of the captions.
        data: `config.data`.
        audio: `config.audio`.
    """
    waveform = record.waveform()
    longest = round(data.max_seconds * audio.sample_rate)
    if len(waveform) > longest:
        start = int(generator.integers(len(waveform) - longest + 1))
        waveform = waveform[start : start + longest]
    caption = record.captions[int(generator.integers(len(record.captions)))]
    return Clip(waveform, tokenizer.encode(caption, data.max_caption_tokens), record.key)


def _endless_clips(config: ConfigDict, tokenizer: Tokenizer, sources: Mapping[str, Records]):
    """Returns a function: virtual shard -> its endless, shuffled and mixed clips, as a Grain MapDataset."""
    data, audio = config.data, config.audio
    decoding = threading.BoundedSemaphore(max(1, data.decode_threads))

    def load(record: Record, generator: np.random.Generator) -> dict[str, np.ndarray]:
        with decoding:
            return clip_element(load_clip(record, generator, tokenizer, data, audio), samples_per_column(audio))

    # Shuffled first and cut into shards afterwards: an epoch is an epoch of the whole source, however many shards
    # there are, and the random numbers of a clip depend on its place in that stream.
    streams = [
        grain.MapDataset.source(records).seed(_seed(config.seed, "clips", name)).shuffle().repeat().random_map(load)
        for name, records in sources.items()
    ]
    weights = [float(data.train[name].weight) for name in sources]

    def clips(shard: int) -> grain.MapDataset:
        parts = [stream[shard :: data.virtual_shards] for stream in streams]
        return parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights)

    return clips


def _fingerprint(config: ConfigDict, tokenizer: Tokenizer, sources: Mapping[str, Records]) -> dict[str, Any]:
    """Returns what the data order and the batches depend on, readable, as JSON values."""
    data = config.data
    settings = ("rows", "columns", "slots", "text_tokens", "max_seconds", "max_caption_tokens", "packing_bins")
    fingerprint: dict[str, Any] = {
        "config.seed": config.seed,
        "config.audio.sample_rate": config.audio.sample_rate,
        "samples per column": samples_per_column(config.audio),
        **{f"config.data.{name}": data[name] for name in settings},
        "tokenizer": hashlib.blake2b(Path(tokenizer.path).read_bytes(), digest_size=8).hexdigest(),
    }
    for name, records in sources.items():
        fingerprint[f"config.data.train.{name}.split"] = records.split
        fingerprint[f"config.data.train.{name}.weight"] = float(data.train[name].weight)
        fingerprint[f"clips of {name}"] = len(records)
        fingerprint[f"contents of {name}"] = records.fingerprint
    return fingerprint


def _seed(*parts: object) -> int:
    """Returns a 31-bit seed that differs wherever any of the parts differs."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclasses.dataclass(frozen=True)
class EvaluationClip:
    """A whole clip with all of its captions.

    Attributes:
        id: unique within its source.
        waveform: 16 kHz mono, never cropped.
        captions: one or more.
        labels: "key=value" or plain words.
        key: stable int32 of the recording.
    """

    id: str
    waveform: Int16[np.ndarray, " n"]
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    key: int


class EvaluationSet(Sequence[EvaluationClip]):
    """The clips of a split in stored order, decoded and in memory.

    Attributes:
        path: directory of the data set.
        split: name, or several joined by "+".
        fingerprint: short hash of what the split holds.
    """

    def __init__(self, records: Records, clips: Sequence[EvaluationClip]):
        self.path, self.split, self.fingerprint = records.path, records.split, records.fingerprint
        self._clips = tuple(clips)

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: Any) -> Any:
        return self._clips[index]

    def __iter__(self) -> Iterator[EvaluationClip]:
        return iter(self._clips)


def load_evaluation(path: str | os.PathLike[str], split: str, limit: int | None = None) -> EvaluationSet:
    """Loads the clips of a split for evaluation: full length, all captions, always in the same order.

    Args:
        path: prepared data.
        split: name, or several like "val+test".
        limit: the most clips to load, the first ones; None loads all.

    Raises:
        RecordsError: no prepared data there, or no such split.
    """
    records = open_split(path, split)
    count = len(records) if limit is None else min(limit, len(records))
    clips = []
    for index in range(count):
        record = records[index]
        clips.append(EvaluationClip(record.id, record.waveform(), record.captions, record.labels, record.key))
    return EvaluationSet(records, clips)
