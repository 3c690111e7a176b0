"""Makes shards: decodes, checks and encodes the clips of a plan and writes them to an `array_record` file.

Each shard has a summary file, written after it: a shard counts as finished once its summary exists.
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
from slap_jax.data.preparation.clipping import Clipped, clipped_peak, count_clipped, none_clipped
from slap_jax.data.preparation.duplicates import EXCLUDED_EVALUATION, ExcludedClips, excluded_clips
from slap_jax.data.preparation.plan import ShardPlan, read_block
from slap_jax.data.processes import map_in_order
from slap_jax.data.records import Record, encode_record
from slap_jax.errors import UserError

_WRITER_OPTIONS = "group_size:1"  # one record per chunk, for random access
_DURATION_TOLERANCE = 0.1  # stated and decoded durations differ by codec padding; truncated files lack more
_CLIPS_AHEAD = 4  # per thread


class ShardError(UserError, ValueError):
    """A shard that could not be written; finished shards are kept."""


@dataclasses.dataclass(frozen=True)
class ClipSummary:
    """What a shard summary stores about a clip.

    Attributes:
        samples: length at 16 kHz.
        id_hash: `hash_id` of the clip.
        audio_hash: `hash_audio` of the samples.
        loudness_dbfs: `loudness` of the samples.
        peak: `clipped_peak` of the decoded samples.
        file: where they come from, for messages.
    """

    samples: int
    id_hash: int
    audio_hash: int
    loudness_dbfs: float
    peak: float = 0.0
    file: str = ""


PreparedClip = tuple[Record, ClipSummary]


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """Index columns and rejections of a shard; array element i describes record i.

    Attributes:
        digest: digest of everything that the shard depends on; "" for generated records.
        samples: lengths at 16 kHz.
        id_hash: `hash_id` of the records.
        audio_hash: `hash_audio` of the records.
        content_hash: hashes of the stored bytes.
        loudness_dbfs: `loudness` of the records.
        names: (source, id) of the records.
        rejections: the clips that were left out.
        clipped: counts of the clips that were louder than full scale.
    """

    digest: str
    samples: Int64[np.ndarray, " n"]
    id_hash: UInt64[np.ndarray, " n"]
    audio_hash: UInt64[np.ndarray, " n"]
    content_hash: UInt64[np.ndarray, " n"]
    loudness_dbfs: Float32[np.ndarray, " n"]
    names: tuple[tuple[str, str], ...]
    rejections: tuple[Rejection, ...]
    clipped: Clipped = dataclasses.field(default_factory=none_clipped)

    def save(self, file: Path) -> None:
        """Writes the summary."""
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        texts = {
            "digest": self.digest,
            "names": self.names,
            "rejections": [dataclasses.astuple(rejection) for rejection in self.rejections],
            "clipped": self.clipped,
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
            clipped=texts.get("clipped", none_clipped()),  # earlier versions did not count them
            **arrays,
        )


def prepare_shard(
    plan: ShardPlan, staging: Path, threads: int = 1, on_clip: Callable[[], object] = lambda: None
) -> None:
    """Writes a shard and its summary. The result depends only on the plan and the files that it names.

    Args:
        plan: the shard to make.
        staging: folder of the preparation, with the folders `shards` and `summaries`.
        threads: number of clips to decode concurrently.
        on_clip: called after each clip; an exception from it ends the work without leaving a file.

    Raises:
        ShardError: the shard could not be written.
    """
    excluded = excluded_clips(plan.exclude)
    entries = (entry for block in plan.blocks for entry in read_block(block))

    def clips() -> Iterator[PreparedClip | Rejection]:
        for clip in map_in_order(lambda entry: read_clip(entry, excluded), entries, threads, _CLIPS_AHEAD * threads):
            yield clip
            on_clip()

    write_shard(shard_file(staging, plan.file), summary_file(staging, plan.file), clips(), plan.digest)


def shard_file(staging: Path, name: str) -> Path:
    """Returns the path of a finished shard in the folder of a preparation."""
    return staging / "shards" / name


def summary_file(staging: Path, name: str) -> Path:
    """Returns the path of the summary of a finished shard."""
    return staging / "summaries" / f"{name}.npz"


def read_clip(entry: Entry, excluded: ExcludedClips | None = None) -> PreparedClip | Rejection:
    """Decodes a clip; audio that is unusable or excluded becomes a rejection."""
    try:
        decoded = decode_audio(read_audio(entry.audio), name=str(entry.audio))
        samples = to_int16(decoded)
    except AudioError as error:
        return Rejection(entry.where, entry.id, error.reason, str(error))
    except Exception as error:  # of any decoder: one damaged file must never end the work on millions of others
        reason = "too_large" if isinstance(error, MemoryError) else "decoder_error"
        detail = f"{entry.audio} cannot be decoded ({type(error).__name__}: {error}); convert it, or leave it out"
        return Rejection(entry.where, entry.id, reason, detail)
    seconds = len(samples) / SAMPLE_RATE
    if entry.duration_s is not None and seconds < (1 - _DURATION_TOLERANCE) * entry.duration_s - _DURATION_TOLERANCE:
        return Rejection(
            entry.where,
            entry.id,
            "shorter_than_stated",
            f"{entry.audio} lasts {seconds:.2f} s; expected duration_s={entry.duration_s}: copy the file again",
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
    summary = dataclasses.replace(summarise_clip(record, samples), peak=clipped_peak(decoded), file=str(entry.audio))
    if excluded is not None and excluded.has_audio(summary.audio_hash):
        return Rejection(entry.where, entry.id, EXCLUDED_EVALUATION, "the audio equals that of an excluded clip")
    return record, summary


def summarise_clip(record: Record, waveform: Int16[np.ndarray, " n"]) -> ClipSummary:
    """Summarises a clip.

    Args:
        record: the clip.
        waveform: its samples.
    """
    return ClipSummary(len(waveform), hash_id(record.source, record.id), hash_audio(waveform), loudness(waveform))


def write_shard(
    file: Path, summary_file: Path, clips: Iterable[PreparedClip | Rejection], digest: str = ""
) -> ShardSummary:
    """Writes a shard and then its summary, both atomically.

    Args:
        file: file of the shard; its folder exists.
        summary_file: file of the summary; its folder exists.
        clips: the records in order, interleaved with the rejections.
        digest: digest of everything that the shard depends on.

    Raises:
        ShardError: the disk is full, or the folder is not writable.
    """
    summaries: list[ClipSummary] = []
    contents: list[int] = []
    names: list[tuple[str, str]] = []
    rejections: list[Rejection] = []
    clipped = none_clipped()
    try:
        with atomic_file(file) as partial, _array_record(partial) as write:
            for clip in clips:
                if isinstance(clip, Rejection):
                    rejections.append(clip)
                    continue
                record, summary = clip
                data = encode_record(record)
                write(data)
                summaries.append(summary)
                contents.append(hash_bytes(data))
                names.append((record.source, record.id))
                count_clipped(clipped, summary.peak, summary.file)
        shard = ShardSummary(
            digest=digest,
            samples=np.array([summary.samples for summary in summaries], np.int64),
            id_hash=np.array([summary.id_hash for summary in summaries], np.uint64),
            audio_hash=np.array([summary.audio_hash for summary in summaries], np.uint64),
            content_hash=np.array(contents, np.uint64),
            loudness_dbfs=np.array([summary.loudness_dbfs for summary in summaries], np.float32),
            names=tuple(names),
            rejections=tuple(rejections),
            clipped=clipped,
        )
        shard.save(summary_file)
    except OSError as error:
        raise ShardError(_cannot_write(file, error)) from error
    return shard


def filter_shard(source: Path, target: Path, is_kept: Bool[np.ndarray, " n"]) -> None:
    """Copies some records of a shard to another shard.

    Args:
        source: file to read.
        target: file to write; its folder exists.
        is_kept: which records to copy.

    Raises:
        ShardError: the target could not be written.
    """
    reader = ArrayRecordReader(str(source))
    try:
        with atomic_file(target) as partial, _array_record(partial) as write:
            for number in np.flatnonzero(is_kept):
                write(reader.read([int(number)])[0])
    except OSError as error:
        raise ShardError(_cannot_write(target, error)) from error
    finally:
        reader.close()


def _cannot_write(file: Path, error: OSError) -> str:
    return (
        f"{file} could not be written ({error}); free disk space or correct the folder, then repeat the command: "
        "finished shards are kept"
    )


@contextlib.contextmanager
def _array_record(file: Path) -> Iterator[Callable[[bytes], None]]:
    """Yields a function that appends a record; disk failures raise `OSError` from it, or when the block ends."""
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
