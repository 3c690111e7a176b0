"""Packed batches for training, from the config alone: what a step sees depends on (config, step) and nothing else."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.config.defaults import classes_in_batch, samples_per_column
from slap_jax.data.batches.augment import Augmenter
from slap_jax.data.batches.labels import reads_captions
from slap_jax.data.batches.rows import ShardRows, open_sources
from slap_jax.data.batches.stream import host_shards, mixing_weights
from slap_jax.data.batches.workers import WorkerRows
from slap_jax.data.records import Records
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.errors import UserError


class DataMismatchError(UserError, ValueError):
    """The state of a checkpoint belongs to other data or other data settings."""


class TrainBatches:
    """Endless iterator over the packed batches of one host.

    The clips of each source are shuffled anew each epoch, the sources are mixed by their shares, one caption of each
    clip is drawn and clips longer than `config.data.max_seconds` are cropped, all by the seed.

    Attributes:
        shares: of each source in the stream of clips.
    """

    def __init__(self, config: ConfigDict, tokenizer: Tokenizer, process_index: int = 0, process_count: int = 1):
        """Opens the sources; reads no clip before the first `next()`.

        Args:
            config: the whole config, validated; `seed`, `audio` and `data` are used.
            tokenizer: of `config.data.tokenizer`.
            process_index: number of this host.
            process_count: number of hosts; divides `config.data.virtual_shards`.

        Raises:
            RecordsError: a source is not prepared or lacks the split.
            ConfigError: `process_count` does not divide `config.data.virtual_shards`.
        """
        data = config.data
        shards = host_shards(data.virtual_shards, process_index, process_count)
        sources = open_sources(config)
        self._clips = {name: len(records) for name, records in sources.items()}
        weights = [float(data.train[name].weight) for name in sources]
        shares = mixing_weights(weights, list(self._clips.values()), data.temperature)
        self.shares = dict(zip(sources, shares, strict=True))
        self._data, self._num_shards = data, data.virtual_shards
        self._fingerprint = _fingerprint(config, tokenizer, sources, self.shares)
        if data.workers:
            self._rows: ShardRows | WorkerRows = WorkerRows(config, shares, shards, data.workers)
        else:
            self._rows = ShardRows(config, tokenizer, sources, shares, shards)
        self._shards = shards

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> PackedBatch:
        """Returns this host's rows [R / process_count, ...] of the next global batch, in numpy."""
        return next(self._rows)

    def get_state(self) -> dict[str, Any]:
        """Returns the position after the last batch: JSON values, with the states of this host's shards only."""
        return {
            "num_shards": self._num_shards,
            "fingerprint": self._fingerprint,
            "states": self._rows.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues from a state, which may have been saved by another number of hosts or workers.

        Args:
            state: of `get_state`, with the `states` of all hosts merged.

        Raises:
            DataMismatchError: other data or settings, unless `config.data.allow_mismatch`; then each shard goes on from
                its place in the stream, and the clips of rows that were not yet given are dropped.
        """
        states = dict(state["states"])
        missing = [str(shard) for shard in self._shards if str(shard) not in states]
        if state["num_shards"] != self._num_shards or missing:
            raise DataMismatchError(
                f"the checkpoint's data position is for {state['num_shards']} virtual shards and holds "
                f"{len(states)}; config.data.virtual_shards is {self._num_shards}: set it to {state['num_shards']}"
            )
        differences = describe_differences(state["fingerprint"], self._fingerprint)
        if differences:
            if not self._data.allow_mismatch:
                raise DataMismatchError(
                    "the data differ from those of the checkpoint, so training would not continue where it stopped:\n  "
                    + "\n  ".join(differences)
                    + "\nundo the change, or accept it with --config.data.allow_mismatch=True"
                )
            beginning = self._rows.get_state()
            states = {
                str(shard): {**beginning[str(shard)], "position": states[str(shard)]["position"]}
                for shard in self._shards
            }
        self._rows.set_state(states)

    def epochs(self, state: Mapping[str, Any] | None = None) -> dict[str, float]:
        """Returns how often each source has been gone through, by what this host's shards have taken of it.

        Args:
            state: of `get_state`; the present one by default.
        """
        states = (self.get_state() if state is None else state)["states"]
        taken = [sum(shard["taken"][number] for shard in states.values()) for number in range(len(self._clips))]
        hosts = self._num_shards / len(states)
        return {name: count * hosts / clips for count, (name, clips) in zip(taken, self._clips.items(), strict=True)}

    def close(self) -> None:
        """Stops reading, in threads or in worker processes."""
        self._rows.close()


def describe_differences(saved: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Returns one line for each setting that differs between two fingerprints."""
    absent = "(none)"
    return [
        f"{key}: {saved.get(key, absent)} in the checkpoint, {present.get(key, absent)} now"
        for key in sorted({*saved, *present})
        if saved.get(key, absent) != present.get(key, absent)
    ]


def _fingerprint(
    config: ConfigDict, tokenizer: Tokenizer, sources: Mapping[str, Records], shares: Mapping[str, float]
) -> dict[str, Any]:
    """Returns what the data order and the batches depend on, readable, as JSON values."""
    data = config.data
    settings = ("rows", "columns", "slots", "text_tokens", "max_seconds", "max_caption_tokens", "packing_bins")
    fingerprint: dict[str, Any] = {
        "config.seed": config.seed,
        "config.audio.sample_rate": config.audio.sample_rate,
        "samples per column": samples_per_column(config.audio),
        **{f"config.data.{name}": data[name] for name in settings},
        "tokenizer": hashlib.blake2b(Path(tokenizer.path).read_bytes(), digest_size=8).hexdigest(),
        **Augmenter(data.augment).fingerprint,
    }
    if classes_in_batch(config):
        labelling = config.objectives.classification
        for name in ("label", "classes", "multi_label", "mixup_probability", "mixup_alpha"):
            fingerprint[f"config.objectives.classification.{name}"] = labelling[name]
        fingerprint["captions are read"] = reads_captions(config)
    for number, (name, records) in enumerate(sources.items()):
        fingerprint[f"config.data.train.{name}"] = f"source {number}"
        fingerprint[f"config.data.train.{name}.split"] = records.split
        fingerprint[f"share of {name}"] = round(shares[name], 12)
        fingerprint[f"clips of {name}"] = len(records)
        fingerprint[f"contents of {name}"] = records.fingerprint
        for policy, value in data.train[name].captions.items():
            fingerprint[f"config.data.train.{name}.captions.{policy}"] = _plain(value)
    return {key: _plain(value) for key, value in fingerprint.items()}


def _plain(value: Any) -> Any:
    """Returns the value as JSON gives it back, so that a stored fingerprint equals a present one."""
    return [_plain(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
