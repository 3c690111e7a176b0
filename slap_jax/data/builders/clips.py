"""The TFDS builder that writes records: one schema, `array_record` files, no TensorFlow."""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from slap_jax.data.records import SUMMARY, Record

# TFDS makes it of the builder's class name.
DATASET = "slap_clips"

# Changes when records of an older version could no longer be read.
SCHEMA_VERSION = "1.0.0"

# A shard's records are in memory while it is written.
RECORDS_PER_SHARD = 1_024


@dataclasses.dataclass(frozen=True)
class SplitStream:
    """The records of one split, made as they are written.

    Attributes:
        most: the most records that may come; it fixes the number of shards.
        records: at least one, in the order in which they are stored.
    """

    most: int
    records: Iterator[Record]


class SlapClips(tfds.core.ShardBasedBuilder):
    """Captioned clips of any collection."""

    VERSION = tfds.core.Version(SCHEMA_VERSION)
    code_path = None  # beside the code TFDS would look for checksums of downloads

    def __init__(self, *, splits: Mapping[str, SplitStream], **kwargs: Any):
        self._splits = splits
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Captioned audio clips: 16 kHz mono FLAC with captions, labels, regions and provenance.",
            features=tfds.features.FeaturesDict(
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
            ),
            disable_shuffling=True,  # the manifest's order; training shuffles when it reads
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> Mapping[str, Sequence[Any]]:
        return {
            name: [_shard(stream.records)] * max(1, -(-stream.most // RECORDS_PER_SHARD))
            for name, stream in self._splits.items()
        }


def write_splits(splits: Mapping[str, SplitStream], directory: str | os.PathLike[str]) -> Path:
    """Writes records as a TFDS data set, and beside them a summary with a digest of each split's contents.

    Args:
        splits: split name -> its records.
        directory: receives `slap_clips/<version>/`; must not hold one yet.

    Returns:
        The directory with `dataset_info.json`.
    """
    tfds.disable_progress_bar()
    summaries = {name: _Summary() for name in splits}
    watched = {name: SplitStream(stream.most, summaries[name].watch(stream.records)) for name, stream in splits.items()}
    builder = SlapClips(splits=watched, data_dir=os.fspath(directory), file_format="array_record")
    # TFDS announces a download, which there is none of.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    contents = {name: summary.contents() for name, summary in summaries.items()}
    summary_file = Path(builder.data_dir) / SUMMARY
    summary_file.write_text(json.dumps({"splits": contents}, indent=2) + "\n")
    return summary_file.parent


class _Summary:
    """Counts and digests records on their way to the writer; files are padded, so their sizes tell little."""

    def __init__(self):
        self._clips, self._seconds, self._digest = 0, 0.0, hashlib.blake2b(digest_size=16)

    def watch(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            self._clips += 1
            self._seconds += record.duration_s
            self._digest.update(repr(dataclasses.astuple(record)).encode())
            yield record

    def contents(self) -> dict[str, Any]:
        return {"clips": self._clips, "seconds": round(self._seconds, 3), "digest": self._digest.hexdigest()}


def _shard(records: Iterator[Record]) -> Any:
    """Returns a generator function that takes the next records of a stream which all shards of a split share."""

    def examples() -> Iterator[tuple[str, dict[str, Any]]]:
        for record in itertools.islice(records, RECORDS_PER_SHARD):
            yield record.id, _example(record)

    return examples


def _example(record: Record) -> dict[str, Any]:
    example = dataclasses.asdict(record)
    example["captions"], example["labels"] = list(record.captions), list(record.labels)
    example["regions"] = [
        {"onset_s": onset, "offset_s": offset, "caption": caption} for onset, offset, caption in record.regions
    ]
    return example
