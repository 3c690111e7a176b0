"""One `array_record` shard and its summary, each complete or not there."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Bool, Float32, Int16, Int64, UInt64

from slap_jax.data.atomic_file import atomic_file
from slap_jax.data.collections.entries import Rejection
from slap_jax.data.record_index import hash_audio, hash_bytes, hash_id
from slap_jax.data.records import Record, encode_record
from slap_jax.data.statistics.loudness import loudness

# One record a chunk, as random access wants it.
_WRITER_OPTIONS = "group_size:1"


class ShardError(ValueError):
    """A shard that could not be written; the message says why, and that nothing is lost."""


@dataclasses.dataclass(frozen=True)
class ClipFacts:
    """What is kept of a clip beside its record.

    Attributes:
        samples: at 16 kHz.
        id_hash: of "source/id".
        audio_hash: of the samples.
        loudness_dbfs: of `loudness`.
    """

    samples: int
    id_hash: int
    audio_hash: int
    loudness_dbfs: float


def clip_facts(record: Record, waveform: Int16[np.ndarray, " n"]) -> ClipFacts:
    """Measures a clip.

    Args:
        record: the clip.
        waveform: the samples that it holds.
    """
    return ClipFacts(len(waveform), hash_id(record.source, record.id), hash_audio(waveform), loudness(waveform))


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """What a shard holds, in the order of its records.

    Attributes:
        digest: of all that the shard was made from; "" where records were made, not read.
        samples: length of each record.
        id_hash: `hash_id` of each record.
        audio_hash: `hash_audio` of each record.
        content_hash: hash of each record as stored.
        loudness_dbfs: `loudness` of each record.
        names: (source, id) of each record.
        rejections: the clips that were left out.
    """

    digest: str
    samples: Int64[np.ndarray, " n"]
    id_hash: UInt64[np.ndarray, " n"]
    audio_hash: UInt64[np.ndarray, " n"]
    content_hash: UInt64[np.ndarray, " n"]
    loudness_dbfs: Float32[np.ndarray, " n"]
    names: tuple[tuple[str, str], ...]
    rejections: tuple[Rejection, ...]

    def save(self, file: Path) -> None:
        """Writes the summary; once it is there, the shard counts as finished."""
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        texts = {
            "digest": self.digest,
            "names": self.names,
            "rejections": [dataclasses.astuple(rejection) for rejection in self.rejections],
        }
        with atomic_file(file) as partial, partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, texts=np.frombuffer(json.dumps(texts).encode(), np.uint8), **arrays)

    @classmethod
    def load(cls, file: Path) -> "ShardSummary":
        """Reads what `save` wrote."""
        with np.load(file) as values:
            arrays = dict(values)
        texts = json.loads(arrays.pop("texts").tobytes())
        return cls(
            digest=texts["digest"],
            names=tuple((source, clip_id) for source, clip_id in texts["names"]),
            rejections=tuple(Rejection(*rejection) for rejection in texts["rejections"]),
            **arrays,
        )


def write_shard(
    file: Path, summary_file: Path, clips: Iterable[tuple[Record, ClipFacts] | Rejection], digest: str = ""
) -> ShardSummary:
    """Writes a shard, then its summary, each under a temporary name until it is complete.

    Args:
        file: of the shard; its folder exists.
        summary_file: of the summary; its folder exists.
        clips: the records in their order, and among them what was left out.
        digest: of all that the shard depends on.

    Raises:
        ShardError: the disk is full, or the folder cannot be written to.
    """
    facts: list[ClipFacts] = []
    contents: list[int] = []
    names: list[tuple[str, str]] = []
    rejections: list[Rejection] = []
    try:
        with atomic_file(file) as partial, _array_record(partial) as write:
            for clip in clips:
                if isinstance(clip, Rejection):
                    rejections.append(clip)
                    continue
                record, fact = clip
                data = encode_record(record)
                write(data)
                facts.append(fact)
                contents.append(hash_bytes(data))
                names.append((record.source, record.id))
        summary = ShardSummary(
            digest=digest,
            samples=np.array([fact.samples for fact in facts], np.int64),
            id_hash=np.array([fact.id_hash for fact in facts], np.uint64),
            audio_hash=np.array([fact.audio_hash for fact in facts], np.uint64),
            content_hash=np.array(contents, np.uint64),
            loudness_dbfs=np.array([fact.loudness_dbfs for fact in facts], np.float32),
            names=tuple(names),
            rejections=tuple(rejections),
        )
        summary.save(summary_file)
    except OSError as error:
        raise ShardError(_not_written(file, error)) from error
    return summary


def filter_shard(source: Path, target: Path, kept: Bool[np.ndarray, " n"]) -> None:
    """Copies some records of a shard to another shard.

    Args:
        source: to read.
        target: to write; its folder exists.
        kept: which records to copy.

    Raises:
        ShardError: the target could not be written.
    """
    reader = ArrayRecordReader(str(source))
    try:
        with atomic_file(target) as partial, _array_record(partial) as write:
            for number in np.flatnonzero(kept):
                write(reader.read([int(number)])[0])
    except OSError as error:
        raise ShardError(_not_written(target, error)) from error
    finally:
        reader.close()


def _not_written(file: Path, error: OSError) -> str:
    return (
        f"{file} could not be written ({error}); make room or correct the folder, then call again: "
        "finished shards are kept"
    )


@contextlib.contextmanager
def _array_record(file: Path) -> Iterator[Callable[[bytes], None]]:
    """Gives a function that appends a record; failures of the disk come as `OSError`, early, but at the latest here."""
    writer = ArrayRecordWriter(str(file), _WRITER_OPTIONS)

    def write(data: bytes) -> None:
        writer.write(data)
        if not writer.ok():
            close()

    def close() -> None:
        try:
            writer.close()
        except RuntimeError as error:
            raise OSError(str(error)) from error

    try:
        yield write
    finally:
        close()
