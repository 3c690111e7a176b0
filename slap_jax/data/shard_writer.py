"""One `array_record` shard and its summary, each complete or not there."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Float32, Int16, Int64, UInt64

from slap_jax.data.atomic_file import atomic_file
from slap_jax.data.audio import INT16_SCALE
from slap_jax.data.entries import Rejection
from slap_jax.data.record_index import hash_audio, hash_bytes, hash_id
from slap_jax.data.records import Record, encode_record

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
        level_dbfs: root mean square in dB of full scale; -inf of digital silence.
    """

    samples: int
    id_hash: int
    audio_hash: int
    level_dbfs: float


def clip_facts(record: Record, waveform: Int16[np.ndarray, " n"]) -> ClipFacts:
    """Measures a clip.

    Args:
        record: the clip.
        waveform: the samples that it holds.
    """
    power = float(np.mean(np.square(waveform, dtype=np.float32), dtype=np.float64)) / INT16_SCALE**2
    level = 10 * np.log10(power) if power else -np.inf
    return ClipFacts(len(waveform), hash_id(record.source, record.id), hash_audio(waveform), float(level))


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """What a shard holds, in the order of its records.

    Attributes:
        digest: of all that the shard was made from; "" where records were made, not read.
        samples: length of each record.
        id_hash: `hash_id` of each record.
        audio_hash: `hash_audio` of each record.
        content_hash: hash of each record as stored.
        level_dbfs: level of each record.
        rejections: the clips that were left out.
    """

    digest: str
    samples: Int64[np.ndarray, " n"]
    id_hash: UInt64[np.ndarray, " n"]
    audio_hash: UInt64[np.ndarray, " n"]
    content_hash: UInt64[np.ndarray, " n"]
    level_dbfs: Float32[np.ndarray, " n"]
    rejections: tuple[Rejection, ...] = ()

    def save(self, file: Path) -> None:
        """Writes the summary; once it is there, the shard counts as finished."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["rejections"] = json.dumps([dataclasses.astuple(rejection) for rejection in self.rejections])
        with atomic_file(file) as partial, partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **{name: np.asarray(value) for name, value in values.items()})

    @classmethod
    def load(cls, file: Path) -> "ShardSummary":
        """Reads what `save` wrote."""
        with np.load(file) as values:
            arrays = dict(values)
        digest, rejections = str(arrays.pop("digest")), json.loads(str(arrays.pop("rejections")))
        return cls(digest=digest, rejections=tuple(Rejection(*rejection) for rejection in rejections), **arrays)


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
        summary = ShardSummary(
            digest=digest,
            samples=np.array([fact.samples for fact in facts], np.int64),
            id_hash=np.array([fact.id_hash for fact in facts], np.uint64),
            audio_hash=np.array([fact.audio_hash for fact in facts], np.uint64),
            content_hash=np.array(contents, np.uint64),
            level_dbfs=np.array([fact.level_dbfs for fact in facts], np.float32),
            rejections=tuple(rejections),
        )
        summary.save(summary_file)
    except OSError as error:
        raise ShardError(
            f"{file} could not be written ({error}); make room or correct the folder, then call again: "
            "finished shards are kept"
        ) from error
    return summary


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
