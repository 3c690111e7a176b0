"""Packed batches for training: the batch of a step depends only on the config and the step."""

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
    """The data position of a checkpoint belongs to other data or other data settings."""


class TrainBatches:
    """Endless iterator over the packed batches of one host.

    Each source is shuffled every epoch, the sources are mixed by weight, one caption of each clip is drawn, and clips
    longer than `config.data.max_seconds` are cropped, all derived from the seed.

    Attributes:
        fractions: source -> its fraction of the stream of clips.
    """

    def __init__(self, config: ConfigDict, tokenizer: Tokenizer, process_index: int = 0, process_count: int = 1):
        """Opens the sources; reads no clip before the first `next()`.

        Args:
            config: the whole config, validated; `seed`, `audio` and `data` are used.
            tokenizer: tokenizer of `config.data.tokenizer`.
            process_index: index of this host.
            process_count: number of hosts; divides `config.data.virtual_shards`.

        Raises:
            RecordsError: a source is not prepared or lacks the split.
            AugmentError: a folder of noises or rooms holds no usable file.
            ConfigError: `process_count` does not divide `config.data.virtual_shards`.
        """
        data = config.data
        shards = host_shards(data.virtual_shards, process_index, process_count)
        sources = open_sources(config)
        self._clips = {name: len(records) for name, records in sources.items()}
        weights = [float(data.train[name].weight) for name in sources]
        fractions = mixing_weights(weights, list(self._clips.values()), data.temperature)
        self.fractions = dict(zip(sources, fractions, strict=True))
        self._data, self._num_shards = data, data.virtual_shards
        augmenter = Augmenter(data.augment)
        augmenter.warn_of_rejected_files()
        self._fingerprint = _fingerprint(config, tokenizer, sources, self.fractions, augmenter)
        if data.workers:
            self._rows: ShardRows | WorkerRows = WorkerRows(config, fractions, shards, data.workers)
        else:
            self._rows = ShardRows(config, tokenizer, sources, fractions, shards, augmenter)
        self._shards = shards

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> PackedBatch:
        """Returns this host's rows [R / process_count, ...] of the next global batch, in NumPy."""
        return next(self._rows)

    def get_state(self) -> dict[str, Any]:
        """Returns the position after the last batch, as JSON values, with the states of this host's shards only."""
        return {
            "num_shards": self._num_shards,
            "fingerprint": self._fingerprint,
            "states": self._rows.get_state(),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raises as `set_state` does, but changes nothing: a run can compare before it compiles."""
        self._differences(state)

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from a state that may have been saved by another number of hosts or workers.

        Args:
            state: result of `get_state`, with the `states` of all hosts merged.

        Raises:
            DataMismatchError: the data or settings have changed. With `config.data.allow_mismatch` each shard resumes
                from its position in the stream instead, and the clips in its open rows are dropped.
        """
        states = dict(state["states"]) if "states" in state else {}
        if self._differences(state):
            beginning = self._rows.get_state()
            states = {
                str(shard): {**beginning[str(shard)], "position": states[str(shard)]["position"]}
                for shard in self._shards
            }
        self._rows.set_state(states)

    def _differences(self, state: Mapping[str, Any]) -> list[str]:
        """Returns the accepted differences; raises `DataMismatchError` for others."""
        if not state.keys() >= {"num_shards", "fingerprint", "states"}:
            raise DataMismatchError(
                f"the checkpoint's data position has {', '.join(state) or 'nothing'}; expected num_shards, fingerprint "
                "and states: resume from a checkpoint that this version of `slap train` wrote"
            )
        states = dict(state["states"])
        missing = [str(shard) for shard in self._shards if str(shard) not in states]
        if state["num_shards"] != self._num_shards or missing:
            raise DataMismatchError(
                f"the checkpoint's data position is for {state['num_shards']} virtual shards and holds "
                f"{len(states)}; config.data.virtual_shards is {self._num_shards}: set it to {state['num_shards']}"
            )
        differences = describe_differences(state["fingerprint"], self._fingerprint)
        if differences and not self._data.allow_mismatch:
            raise DataMismatchError(
                "the data differ from those of the checkpoint, so training would not continue where it stopped:\n  "
                + "\n  ".join(differences)
                + "\nundo the change, or accept it with --config.data.allow_mismatch=True"
            )
        return differences

    def epochs(self, state: Mapping[str, Any] | None = None) -> dict[str, float]:
        """Returns the number of epochs of each source so far, estimated from this host's shards.

        Args:
            state: result of `get_state`; by default the current one.
        """
        states = (self.get_state() if state is None else state)["states"]
        taken = [sum(shard["taken"][number] for shard in states.values()) for number in range(len(self._clips))]
        hosts = self._num_shards / len(states)
        return {name: count * hosts / clips for count, (name, clips) in zip(taken, self._clips.items(), strict=True)}

    def close(self) -> None:
        """Stops the threads or worker processes."""
        self._rows.close()


def describe_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Returns one line for each setting that differs between two fingerprints."""
    absent = "(none)"
    return [
        f"{key}: {saved.get(key, absent)} in the checkpoint, {current.get(key, absent)} now"
        for key in sorted({*saved, *current})
        if saved.get(key, absent) != current.get(key, absent)
    ]


def _fingerprint(
    config: ConfigDict,
    tokenizer: Tokenizer,
    sources: Mapping[str, Records],
    fractions: Mapping[str, float],
    augmenter: Augmenter,
) -> dict[str, Any]:
    """Returns everything that the data order and the batches depend on, as readable JSON values.

    Checkpoints store it, so its keys stay as they are.
    """
    data = config.data
    settings = ("rows", "columns", "slots", "text_tokens", "max_seconds", "max_caption_tokens", "packing_bins")
    fingerprint: dict[str, Any] = {
        "config.seed": config.seed,
        "config.audio.sample_rate": config.audio.sample_rate,
        "samples per column": samples_per_column(config.audio),
        **{f"config.data.{name}": data[name] for name in settings},
        "tokenizer": hashlib.blake2b(Path(tokenizer.path).read_bytes(), digest_size=8).hexdigest(),
        **augmenter.fingerprint,
    }
    if classes_in_batch(config):
        labelling = config.objectives.classification
        for name in ("label", "classes", "multi_label", "mixup_probability", "mixup_alpha"):
            fingerprint[f"config.objectives.classification.{name}"] = labelling[name]
        fingerprint["captions are read"] = reads_captions(config)
    for number, (name, records) in enumerate(sources.items()):
        fingerprint[f"config.data.train.{name}"] = f"source {number}"
        fingerprint[f"config.data.train.{name}.split"] = records.split
        fingerprint[f"share of {name}"] = round(fractions[name], 12)
        fingerprint[f"clips of {name}"] = len(records)
        fingerprint[f"contents of {name}"] = records.fingerprint
        for policy, value in data.train[name].captions.items():
            fingerprint[f"config.data.train.{name}.captions.{policy}"] = _plain(value)
    return {key: _plain(value) for key, value in fingerprint.items()}


def _plain(value: Any) -> Any:
    """Returns the value as JSON would restore it, so that a stored fingerprint can equal a new one."""
    return [_plain(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
