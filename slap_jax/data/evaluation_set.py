"""Whole clips for evaluation: full length, all captions, stored order; samples are decoded when they are asked for."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int16

from slap_jax.data.audio import flac_samples
from slap_jax.data.records import Record, Records, open_split

# What `waveform_chunks` has in memory at a time: 60 MB of samples, unless one clip alone is longer.
_CHUNK_CLIPS = 512
_CHUNK_SAMPLES = 30_000_000
_DECODE_THREADS = 4

Region = tuple[float, float, str]


@dataclasses.dataclass(frozen=True)
class EvaluationClip:
    """A whole clip with all of its captions.

    Attributes:
        id: unique within its source.
        waveform: 16 kHz mono, never cropped.
        captions: best first; none where the collection has labels only.
        labels: "key=value" or plain words.
        key: stable int32 of the recording.
        regions: (onset s, offset s, caption) of parts of the clip.
    """

    id: str
    waveform: Int16[np.ndarray, " n"]
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    key: int
    regions: tuple[Region, ...] = ()


@dataclasses.dataclass(frozen=True)
class ClipFacts:
    """All of an `EvaluationClip` but its samples, of which it has the number."""

    id: str
    samples: int
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    regions: tuple[Region, ...]


class EvaluationSet(Sequence[EvaluationClip]):
    """The clips of a split in stored order; a clip is decoded each time it is read, so sets may have any size.

    Attributes:
        path: directory of the data set.
        split: name, or several joined by "+".
        fingerprint: short hash of what the split holds.
    """

    def __init__(self, records: Records, count: int):
        """Takes the first `count` records."""
        self.path, self.split, self.fingerprint = records.path, records.split, records.fingerprint
        self._records, self._count = records, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        """Reads and decodes one clip; a slice gives a list of clips."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self._count))]
        position = int(index) + (self._count if index < 0 else 0)
        if not 0 <= position < self._count:
            raise IndexError(f"clip {index} of {self._count} in split {self.split!r} of {self.path}")
        return _clip(self._records[position])

    def __iter__(self) -> Iterator[EvaluationClip]:
        return (self[position] for position in range(self._count))

    def facts(self) -> Iterator[ClipFacts]:
        """Reads every clip without decoding it."""
        for position in range(self._count):
            record = self._records[position]
            samples = flac_samples(record.audio, f"record {record.source}/{record.id}")
            yield ClipFacts(record.id, samples, record.captions, record.labels, record.regions)


def load_evaluation(path: str | os.PathLike[str], split: str, limit: int | None = None) -> EvaluationSet:
    """Opens the clips of a split for evaluation: full length, all captions, always in the same order.

    Args:
        path: prepared data.
        split: name, or several like "val+test".
        limit: the most clips, the first ones; None takes all.

    Raises:
        RecordsError: no prepared data there, or no such split.
    """
    records = open_split(path, split)
    return EvaluationSet(records, len(records) if limit is None else min(limit, len(records)))


def clip_facts(clips: Sequence[EvaluationClip]) -> Iterator[ClipFacts]:
    """Returns the facts of clips of either kind: those of a set that is read, and those that are in memory."""
    if isinstance(clips, EvaluationSet):
        yield from clips.facts()
        return
    for clip in clips:
        yield ClipFacts(clip.id, len(clip.waveform), clip.captions, clip.labels, clip.regions)


def waveform_chunks(
    clips: Sequence[EvaluationClip], samples: Sequence[int], wanted: Sequence[int] | None = None
) -> Iterator[tuple[list[int], list[Int16[np.ndarray, " n"]]]]:
    """Decodes clips some at a time, so that memory does not grow with their number.

    Args:
        clips: of a set.
        samples: length of each.
        wanted: which of them, in which order; None for all.

    Yields:
        The indices of some clips, and their waveforms.
    """
    chunk: list[int] = []
    total = 0
    with ThreadPoolExecutor(_DECODE_THREADS) as threads:
        for index in range(len(clips)) if wanted is None else wanted:
            if chunk and (len(chunk) == _CHUNK_CLIPS or total + samples[index] > _CHUNK_SAMPLES):
                yield chunk, list(threads.map(lambda one: clips[one].waveform, chunk))
                chunk, total = [], 0
            chunk.append(int(index))
            total += samples[index]
        if chunk:
            yield chunk, list(threads.map(lambda one: clips[one].waveform, chunk))


def _clip(record: Record) -> EvaluationClip:
    return EvaluationClip(
        record.id, record.waveform(), record.captions, record.labels, record.key, tuple(record.regions)
    )
