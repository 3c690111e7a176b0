"""Approximate sizes of batches, from the durations that `slap prepare` noted: no clip is decoded."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from slap_jax.config.defaults import columns_of
from slap_jax.data.records import Records, dataset_directory, split_summaries

FILL = 0.95  # fraction of the columns that clips fill, roughly


def columns_per_clip(config: ConfigDict, splits: Sequence[Records]) -> float:
    """Returns the mean number of columns of a clip, cropped to `config.data.max_seconds`."""
    seconds = sum(_seconds(records) for records in splits) / max(sum(map(len, splits)), 1)
    return columns_of(min(seconds, config.data.max_seconds), config.audio) + 0.5


def clips_per_batch(config: ConfigDict, splits: Sequence[Records]) -> int:
    """Returns about how many clips a global batch holds."""
    data = config.data
    clips = FILL * data.rows * data.columns / columns_per_clip(config, splits)
    return max(1, min(round(clips), data.rows * data.slots))


def _seconds(records: Records) -> float:
    """Returns the duration of all clips: from the summary of `slap prepare`, or else by reading every record."""
    splits = split_summaries(dataset_directory(records.path))
    names = records.split.split("+")
    if all(name in splits for name in names):
        return sum(float(splits[name]["seconds"]) for name in names)
    return sum(record.duration_s for record in records)
