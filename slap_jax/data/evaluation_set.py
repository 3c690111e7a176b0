"""Clips for evaluation: full length, all captions, in stored order. Audio is decoded on access."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int16

from slap_jax.data.audio import flac_samples
from slap_jax.data.records import Record, Records, open_split

# Limits of a chunk of `waveform_chunks`: 60 MB of samples, or a single clip if it is longer.
_CHUNK_CLIPS = 512
_CHUNK_SAMPLES = 30_000_000
_DECODE_THREADS = 4

Region = tuple[float, float, str]


@dataclasses.dataclass(frozen=True)
class EvaluationClip:
    """A decoded clip with all of its captions.

    Attributes:
        id: unique within its source.
        waveform: 16 kHz mono, never cropped.
        captions: best first; empty if the collection has only labels.
        labels: "key=value" or plain words.
        key: stable int32 of the recording.
        regions: (onset s, offset s, caption) of parts of the clip.
        source: the collection that the clip comes from, "" if unknown.
    """

    id: str
    waveform: Int16[np.ndarray, " n"]
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    key: int
    regions: tuple[Region, ...] = ()
    source: str = ""


@dataclasses.dataclass(frozen=True)
class ClipFacts:
    """An `EvaluationClip` with the number of its samples in place of the samples, so that nothing is decoded."""

    id: str
    samples: int
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    regions: tuple[Region, ...]
    source: str = ""


class EvaluationSet(Sequence[EvaluationClip]):
    """The clips of a split in stored order. A clip is decoded at every access, so a set may have any size.

    Attributes:
        path: directory of the dataset.
        split: name, or several joined by "+".
        fingerprint: short hash of the contents of the split.
    """

    def __init__(self, records: Records, count: int):
        """Uses the first `count` records."""
        self.path, self.split, self.fingerprint = records.path, records.split, records.fingerprint
        self._records, self._count = records, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        """Reads and decodes one clip; a slice returns a list of clips."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self._count))]
        position = int(index) + (self._count if index < 0 else 0)
        if not 0 <= position < self._count:
            raise IndexError(f"clip {index} of {self._count} in split {self.split!r} of {self.path}")
        return _clip(self._records[position])

    def __iter__(self) -> Iterator[EvaluationClip]:
        return (self[position] for position in range(self._count))

    def facts(self) -> Iterator[ClipFacts]:
        """Yields captions, labels and lengths of the clips without decoding any audio."""
        for position in range(self._count):
            record = self._records[position]
            samples = flac_samples(record.audio, f"record {record.source}/{record.id}")
            yield ClipFacts(record.id, samples, record.captions, record.labels, record.regions, record.source)


def load_evaluation(path: str | os.PathLike[str], split: str, limit: int | None = None) -> EvaluationSet:
    """Opens the clips of a split for evaluation.

    Args:
        path: prepared data.
        split: name, or several like "val+test".
        limit: number of clips to use, from the first one on; None uses all.

    Raises:
        RecordsError: there are no prepared data, or the split does not exist.
    """
    records = open_split(path, split)
    return EvaluationSet(records, len(records) if limit is None else min(limit, len(records)))


def clip_facts(clips: Sequence[EvaluationClip]) -> Iterator[ClipFacts]:
    """Yields the facts of clips, whether they are an `EvaluationSet` or in memory; see `EvaluationSet.facts`."""
    if isinstance(clips, EvaluationSet):
        yield from clips.facts()
        return
    for clip in clips:
        yield ClipFacts(clip.id, len(clip.waveform), clip.captions, clip.labels, clip.regions, clip.source)


def waveform_chunks(
    clips: Sequence[EvaluationClip], samples: Sequence[int], indices: Sequence[int] | None = None
) -> Iterator[tuple[list[int], list[Int16[np.ndarray, " n"]]]]:
    """Decodes clips in chunks, so that memory does not grow with their number.

    Args:
        clips: clips of a set.
        samples: length of each clip.
        indices: the clips to decode, in this order; None for all.

    Yields:
        The indices of the clips in a chunk, and their waveforms.
    """
    chunk: list[int] = []
    total = 0
    with ThreadPoolExecutor(_DECODE_THREADS) as threads:
        for index in range(len(clips)) if indices is None else indices:
            if chunk and (len(chunk) == _CHUNK_CLIPS or total + samples[index] > _CHUNK_SAMPLES):
                yield chunk, list(threads.map(lambda one: clips[one].waveform, chunk))
                chunk, total = [], 0
            chunk.append(int(index))
            total += samples[index]
        if chunk:
            yield chunk, list(threads.map(lambda one: clips[one].waveform, chunk))


def _clip(record: Record) -> EvaluationClip:
    return EvaluationClip(
        record.id,
        record.waveform(),
        record.captions,
        record.labels,
        record.key,
        tuple(record.regions),
        record.source,
    )
