"""Whole clips for evaluation: full length, all captions, stored order."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int16

from slap_jax.data.records import Records, open_split


@dataclasses.dataclass(frozen=True)
class EvaluationClip:
    """A whole clip with all of its captions.

    Attributes:
        id: unique within its source.
        waveform: 16 kHz mono, never cropped.
        captions: best first; none where the collection has labels only.
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
