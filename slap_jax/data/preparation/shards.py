"""One `array_record` shard and its summary, each complete or not there.

Makes one shard of its plan: reads, checks and encodes the clips, in their order.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Bool, Float32, Int16, Int64, UInt64

from slap_jax.atomic import atomic_file
from slap_jax.data.audio import SAMPLE_RATE, AudioError, decode_audio, encode_flac, to_int16
from slap_jax.data.clip_statistics import loudness
from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.read_audio import read_audio
from slap_jax.data.index import hash_audio, hash_bytes, hash_id
from slap_jax.data.preparation.duplicates import REASON as EXCLUDED_EVALUATION
from slap_jax.data.preparation.duplicates import ExcludedClips, excluded_clips
from slap_jax.data.preparation.plan import ShardPlan, read_block
from slap_jax.data.processes import map_in_order
from slap_jax.data.records import Record, encode_record
from slap_jax.errors import UserError

# One record a chunk, as random access wants it.
_WRITER_OPTIONS = "group_size:1"


class ShardError(UserError, ValueError):
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


# What a collection states and what is decoded differ by the padding of codecs; a file that is broken off lacks more.
_DURATION_TOLERANCE = 0.1
_CLIPS_AHEAD = 4  # of each thread
Clip = tuple[Record, ClipFacts]


def prepare_shard(
    plan: ShardPlan, staging: Path, threads: int = 1, on_clip: Callable[[], object] = lambda: None
) -> None:
    """Writes a shard and its summary; the result depends on the plan and the files that it names alone.

    Args:
        plan: the shard to make.
        staging: folder of the preparation; its folders `shards` and `summaries` exist.
        threads: clips to decode at a time.
        on_clip: called after each clip; what it raises ends the work, and no file is left.

    Raises:
        ShardError: the shard could not be written.
    """
    excluded = excluded_clips(plan.exclude)
    entries = (entry for block in plan.blocks for entry in read_block(block))

    def clips() -> Iterator[Clip | Rejection]:
        for clip in map_in_order(lambda entry: read_clip(entry, excluded), entries, threads, _CLIPS_AHEAD * threads):
            yield clip
            on_clip()

    write_shard(shard_file(staging, plan.file), summary_file(staging, plan.file), clips(), plan.digest)


def shard_file(staging: Path, name: str) -> Path:
    """Returns where a finished shard is, below the folder of a preparation."""
    return staging / "shards" / name


def summary_file(staging: Path, name: str) -> Path:
    """Returns where the summary of a finished shard is."""
    return staging / "summaries" / f"{name}.npz"


def read_clip(entry: Entry, excluded: ExcludedClips | None = None) -> Clip | Rejection:
    """Decodes the audio of an entry; what cannot be used, or is to be left out, becomes a rejection."""
    try:
        samples = to_int16(decode_audio(read_audio(entry.audio), name=str(entry.audio)))
    except AudioError as error:
        return Rejection(entry.where, entry.id, error.reason, str(error))
    seconds = len(samples) / SAMPLE_RATE
    if entry.duration_s is not None and seconds < (1 - _DURATION_TOLERANCE) * entry.duration_s - _DURATION_TOLERANCE:
        return Rejection(
            entry.where,
            entry.id,
            "shorter_than_stated",
            f"{entry.audio} lasts {seconds:.2f} s; duration_s={entry.duration_s} is stated: copy it again",
        )
    record = Record(
        id=entry.id,
        audio=encode_flac(samples),
        duration_s=seconds,
        captions=entry.captions,
        labels=entry.labels,
        regions=entry.regions,
        source=entry.source,
        caption_source=entry.caption_source,
        licence=entry.licence,
    )
    facts = clip_facts(record, samples)
    if excluded is not None and excluded.has_audio(facts.audio_hash):
        return Rejection(entry.where, entry.id, EXCLUDED_EVALUATION, "its audio is that of a clip to be left out")
    return record, facts
