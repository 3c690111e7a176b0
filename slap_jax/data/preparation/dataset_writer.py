"""Makes a TFDS data set of finished shards: metadata, indexes, statistics and duplicates; no TensorFlow."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Bool, Int64

from slap_jax.data.audio import SAMPLE_RATE
from slap_jax.data.clip_statistics import ClipStatistics
from slap_jax.data.index import write_index
from slap_jax.data.preparation.duplicates import Duplicates, find_duplicates
from slap_jax.data.preparation.shards import ShardSummary, filter_shard
from slap_jax.data.records import DATASET, INDEX, SCHEMA_VERSION

DUPLICATES = "duplicates.jsonl"
# The summaries of the published shards, for the next preparation.
SUMMARIES = ".summaries"


@dataclasses.dataclass(frozen=True)
class DatasetIdentity:
    """What a data set is called, and what its metadata say about it.

    Attributes:
        name: of the data set; its files begin with it.
        version: three numbers.
        description: one sentence or more.
        homepage: where it comes from.
        licence: of audio and annotations.
        citation: of its paper.
    """

    name: str = DATASET
    version: str = SCHEMA_VERSION
    description: str = "Captioned audio clips: 16 kHz mono FLAC with captions, labels, regions and provenance."
    homepage: str = ""
    licence: str = ""
    citation: str = ""


@dataclasses.dataclass(frozen=True)
class FinishedShard:
    """A shard on its way from a preparation to its data set.

    Attributes:
        split: name.
        file: where it is made.
        summary_file: of its `ShardSummary`.
    """

    split: str
    file: Path
    summary_file: Path

    def summary(self) -> ShardSummary:
        """Reads the summary."""
        return ShardSummary.load(self.summary_file)


def record_features() -> tfds.features.FeaturesDict:
    """Returns the one schema of all data sets."""
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
    """Returns what TFDS keeps of a data set beside its features and splits."""
    return {
        "description": identity.description,
        "homepage": identity.homepage,
        "citation": identity.citation,
        "redistribution_info": {"license": identity.licence} if identity.licence else None,
        "disable_shuffling": True,  # the collection's order; training shuffles when it reads
    }


def write_dataset(
    directory: Path, identity: DatasetIdentity, shards: Sequence[FinishedShard], *, drop_duplicates: bool = False
) -> dict[str, Any]:
    """Moves shards into a new data set and writes what belongs to it, in memory that does not grow with the clips.

    Args:
        directory: of the data set, to be made.
        identity: of the data set.
        shards: split by split, in their order; a split without a record is left out.
        drop_duplicates: whether to keep only the first of clips with the same audio.

    Returns:
        JSON values: `splits`, with clips, seconds, digest and statistics of each, and counts of `duplicates`.
    """
    directory.mkdir(parents=True)
    counts = np.array([len(shard.summary().samples) for shard in shards], np.int64)
    starts = np.cumsum(counts) - counts
    duplicates = _find_duplicates(directory / ".scratch", shards, int(counts.sum()))
    dropped = duplicates.later if drop_duplicates else np.empty(0, np.int64)
    found = _write_duplicates(directory / DUPLICATES, duplicates, shards, starts, drop_duplicates)

    splits: dict[str, list[_Part]] = {}
    for shard, start, count in zip(shards, starts, counts, strict=True):
        first, last = np.searchsorted(dropped, [start, start + count])
        kept = np.ones(count, bool)
        kept[dropped[first:last] - start] = False
        splits.setdefault(shard.split, []).append(_Part(shard, kept))
    splits = {split: parts for split, parts in splits.items() if any(part.kept.any() for part in parts)}
    for split, parts in splits.items():
        write_index(directory / INDEX / split, sum(part.clips for part in parts), (part.columns() for part in parts))
        for part in parts:
            part.place(directory)
    contents = {split: _contents(parts) for split, parts in splits.items()}
    _write_metadata(directory, identity, splits)
    return {"splits": contents, "duplicates": found}


@dataclasses.dataclass(frozen=True)
class _Part:
    """A shard, and which of its records the data set keeps."""

    shard: FinishedShard
    kept: Bool[np.ndarray, " n"]

    @property
    def clips(self) -> int:
        return int(self.kept.sum())

    def columns(self) -> dict[str, np.ndarray]:
        """Returns the arrays of the summary, of the kept records."""
        arrays = {name: value for name, value in vars(self.shard.summary()).items() if isinstance(value, np.ndarray)}
        return {name: array[self.kept] for name, array in arrays.items()}

    def place(self, directory: Path) -> None:
        """Moves the shard, with its summary, or copies the records that are kept."""
        target = directory / self.shard.file.name
        if not self.kept.all():
            filter_shard(self.shard.file, target, self.kept)
            return
        self.shard.file.replace(target)
        summaries = directory / SUMMARIES
        summaries.mkdir(exist_ok=True)
        shutil.copyfile(self.shard.summary_file, summaries / self.shard.summary_file.name)


def _find_duplicates(scratch: Path, shards: Sequence[FinishedShard], count: int) -> Duplicates:
    duplicates = find_duplicates((shard.summary().audio_hash for shard in shards), count, scratch)
    shutil.rmtree(scratch)
    return duplicates


def _write_duplicates(
    file: Path,
    duplicates: Duplicates,
    shards: Sequence[FinishedShard],
    starts: Int64[np.ndarray, " shards"],
    drop: bool,
) -> dict[str, int]:
    """Writes one line for each group of clips with the same audio; returns counts."""
    members = np.sort(np.concatenate([np.empty(0, np.int64), *duplicates.groups]))
    owners = np.searchsorted(starts, members, side="right") - 1
    clips: dict[int, dict[str, Any]] = {}
    for owner in np.unique(owners):
        names = shards[owner].summary().names
        for member in members[np.searchsorted(owners, owner) : np.searchsorted(owners, owner, side="right")]:
            source, clip_id = names[member - starts[owner]]
            clips[int(member)] = {"split": shards[owner].split, "source": source, "id": clip_id}
    between_splits = 0
    with file.open("w", encoding="utf-8") as stream:
        for group in duplicates.groups:
            found = [clips[int(member)] for member in group]
            between_splits += len({clip["split"] for clip in found}) > 1
            stream.write(json.dumps({"clips": found, "dropped": drop}, ensure_ascii=False) + "\n")
    return {
        "groups": len(duplicates.groups),
        "clips": len(members) - len(duplicates.groups),
        "groups_between_splits": between_splits,
        "dropped": len(members) - len(duplicates.groups) if drop else 0,
    }


def _contents(parts: Sequence[_Part]) -> dict[str, Any]:
    """Returns what the summary says about a split; the digest is of its records, however they lie in shards."""
    statistics, digest, clips, samples = ClipStatistics(), hashlib.blake2b(digest_size=16), 0, 0
    for part in parts:
        columns = part.columns()
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


def _write_metadata(directory: Path, identity: DatasetIdentity, splits: Mapping[str, Sequence[_Part]]) -> None:
    """Writes dataset_info.json and features.json."""
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[part.clips for part in parts],
            num_bytes=sum((directory / part.shard.file.name).stat().st_size for part in parts),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=epath.Path(directory),
                dataset_name=identity.name,
                split=split,
                filetype_suffix="array_record",
            ),
        )
        for split, parts in splits.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=os.fspath(directory),
        features=record_features(),
        split_infos=infos,
        version=identity.version,
        check_data=False,
        **info_fields(identity),
    )
