"""Turns finished shards into a TFDS dataset: metadata, indexes, statistics and duplicates, without TensorFlow."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int64

from slap_jax.config.defaults import default_config
from slap_jax.data.audio import SAMPLE_RATE
from slap_jax.data.clip_statistics import ClipStatistics
from slap_jax.data.index import write_index
from slap_jax.data.log_mel_statistics import KEY
from slap_jax.data.preparation.clipping import add_clipped, none_clipped
from slap_jax.data.preparation.duplicates import Duplicates, find_duplicates
from slap_jax.data.preparation.shards import ShardSummary, filter_shard
from slap_jax.data.records import DATASET, INDEX, SCHEMA_VERSION

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

TRAIN = "train"  # the split whose log-mel is measured
DUPLICATES = "duplicates.jsonl"
SUMMARIES = ".summaries"  # folder with the summaries of the published shards, for the next preparation


@dataclasses.dataclass(frozen=True)
class DatasetIdentity:
    """Name, version and description of a dataset.

    Attributes:
        name: name of the dataset; its files begin with it.
        version: three numbers.
        description: one sentence or more.
        homepage: where the data come from.
        licence: licence of audio and annotations.
        citation: citation of the paper.
    """

    name: str = DATASET
    version: str = SCHEMA_VERSION
    description: str = "Captioned audio clips: 16 kHz mono FLAC with captions, labels, regions and provenance."
    homepage: str = ""
    licence: str = ""
    citation: str = ""


@dataclasses.dataclass(frozen=True)
class FinishedShard:
    """A shard in the staging folder.

    Attributes:
        split: name of the split.
        file: the shard.
        summary_file: its `ShardSummary`.
    """

    split: str
    file: Path
    summary_file: Path

    def summary(self) -> ShardSummary:
        return ShardSummary.load(self.summary_file)


def record_features() -> "tfds.features.FeaturesDict":
    """Returns the TFDS schema of a record, the same for all datasets."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "audio": tfds.features.Tensor(shape=(), dtype=np.object_),
            "duration_s": np.float32,
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "labels": tfds.features.Sequence(tfds.features.Text()),
            "regions": tfds.features.Sequence(
                {"onset_s": np.float32, "offset_s": np.float32, "caption": tfds.features.Text()}
            ),
            "source": tfds.features.Text(),
            "caption_source": tfds.features.Text(),
            "licence": tfds.features.Text(),
        }
    )


def info_fields(identity: DatasetIdentity) -> dict[str, Any]:
    """Returns the fields of `tfds.core.DatasetInfo` apart from features and splits."""
    return {
        "description": identity.description,
        "homepage": identity.homepage,
        "citation": identity.citation,
        "redistribution_info": {"license": identity.licence} if identity.licence else None,
        "disable_shuffling": True,  # keeps the order of the collection; training shuffles when it reads
    }


def write_dataset(
    directory: Path, identity: DatasetIdentity, shards: Sequence[FinishedShard], *, drop_duplicates: bool = False
) -> dict[str, Any]:
    """Moves shards into a new dataset and writes its metadata.

    Args:
        directory: directory of the dataset; must not exist.
        identity: identity of the dataset.
        shards: shards in order, split by split; a split without records is left out.
        drop_duplicates: whether to keep only the first of clips with equal audio.

    Returns:
        JSON values: `splits`, with clips, seconds, digest and statistics of each, counts of `duplicates` and of
        `clipped` clips, and `log_mel` of the split `train` or, without one, of the first split.
    """
    directory.mkdir(parents=True)
    counts = np.array([len(shard.summary().samples) for shard in shards], np.int64)
    starts = np.cumsum(counts) - counts
    duplicates = find_duplicates(shard.summary().audio_hash for shard in shards)
    dropped = duplicates.later if drop_duplicates else np.empty(0, np.int64)
    duplicate_counts = _write_duplicates(directory / DUPLICATES, duplicates, shards, starts, drop_duplicates)

    clipped = none_clipped()
    splits: dict[str, list[_KeptShard]] = {}
    for shard, start, count in zip(shards, starts, counts, strict=True):
        first, last = np.searchsorted(dropped, [start, start + count])
        is_kept = np.ones(count, bool)
        is_kept[dropped[first:last] - start] = False
        splits.setdefault(shard.split, []).append(_KeptShard(shard, is_kept))
        add_clipped(clipped, shard.summary().clipped)
    splits = {split: kept for split, kept in splits.items() if any(shard.is_kept.any() for shard in kept)}
    for split, kept in splits.items():
        write_index(directory / INDEX / split, sum(shard.clips for shard in kept), (shard.columns() for shard in kept))
        for shard in kept:
            shard.move_to(directory)
    summaries = {split: _summarise_split(kept) for split, kept in splits.items()}
    measured = TRAIN if TRAIN in splits else next(iter(splits), "")
    log_mel = _measure_log_mel(directory, measured, splits[measured]) if splits else None
    _write_metadata(directory, identity, splits)
    return {"splits": summaries, "duplicates": duplicate_counts, "clipped": clipped, KEY: log_mel}


@dataclasses.dataclass(frozen=True)
class _KeptShard:
    """A shard, and which of its records the dataset keeps."""

    shard: FinishedShard
    is_kept: Bool[np.ndarray, " n"]

    @property
    def clips(self) -> int:
        return int(self.is_kept.sum())

    def columns(self) -> dict[str, np.ndarray]:
        """Returns the arrays of the summary for the kept records."""
        arrays = {name: value for name, value in vars(self.shard.summary()).items() if isinstance(value, np.ndarray)}
        return {name: array[self.is_kept] for name, array in arrays.items()}

    def move_to(self, directory: Path) -> None:
        """Moves the shard and copies its summary; if records are dropped, copies the kept records instead."""
        target = directory / self.shard.file.name
        if not self.is_kept.all():
            filter_shard(self.shard.file, target, self.is_kept)
            return
        self.shard.file.rename(target)
        summaries = directory / SUMMARIES
        summaries.mkdir(exist_ok=True)
        shutil.copyfile(self.shard.summary_file, summaries / self.shard.summary_file.name)


def _write_duplicates(
    file: Path,
    duplicates: Duplicates,
    shards: Sequence[FinishedShard],
    starts: Int64[np.ndarray, " shards"],
    drop: bool,
) -> dict[str, int]:
    """Writes one JSON line per group of clips with equal audio; returns counts."""
    members = np.sort(np.concatenate([np.empty(0, np.int64), *duplicates.groups]))
    shard_numbers = np.searchsorted(starts, members, side="right") - 1
    clips: dict[int, dict[str, Any]] = {}
    for number in np.unique(shard_numbers):
        names = shards[number].summary().names
        first, last = np.searchsorted(shard_numbers, [number, number + 1])
        for member in members[first:last]:
            source, clip_id = names[member - starts[number]]
            clips[int(member)] = {"split": shards[number].split, "source": source, "id": clip_id}
    between_splits = 0
    with file.open("w", encoding="utf-8") as stream:
        for group in duplicates.groups:
            group_clips = [clips[int(member)] for member in group]
            between_splits += len({clip["split"] for clip in group_clips}) > 1
            stream.write(json.dumps({"clips": group_clips, "dropped": drop}, ensure_ascii=False) + "\n")
    return {
        "groups": len(duplicates.groups),
        "clips": len(members) - len(duplicates.groups),
        "groups_between_splits": between_splits,
        "dropped": len(members) - len(duplicates.groups) if drop else 0,
    }


def _summarise_split(shards: Sequence[_KeptShard]) -> dict[str, Any]:
    """Returns size, statistics and digest of a split; the digest depends on the records, not on the shards."""
    statistics, digest, clips, samples = ClipStatistics(), hashlib.blake2b(digest_size=16), 0, 0
    for shard in shards:
        columns = shard.columns()
        digest.update(columns["content_hash"].astype("<u8").tobytes())
        statistics.add_durations(columns["samples"])
        statistics.add_loudness(columns["loudness_dbfs"])
        clips += len(columns["samples"])
        samples += int(columns["samples"].sum())
    return {
        "clips": clips,
        "seconds": round(samples / SAMPLE_RATE, 3),
        "digest": digest.hexdigest(),
        **statistics.summary(),
    }


def _measure_log_mel(directory: Path, split: str, shards: Sequence[_KeptShard]) -> dict[str, Any]:
    from slap_jax.data.preparation.log_mel_sample import measure_log_mel  # librosa takes two seconds to import

    files = [(directory / shard.shard.file.name, shard.clips) for shard in shards]
    return measure_log_mel(files, split, default_config().audio)


def _write_metadata(directory: Path, identity: DatasetIdentity, splits: Mapping[str, Sequence[_KeptShard]]) -> None:
    """Writes dataset_info.json and features.json."""
    import tensorflow_datasets as tfds
    from etils import epath

    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard.clips for shard in shards],
            num_bytes=sum((directory / shard.shard.file.name).stat().st_size for shard in shards),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=epath.Path(directory),
                dataset_name=identity.name,
                split=split,
                filetype_suffix="array_record",
            ),
        )
        for split, shards in splits.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=os.fspath(directory),
        features=record_features(),
        split_infos=infos,
        version=identity.version,
        check_data=False,
        **info_fields(identity),
    )
