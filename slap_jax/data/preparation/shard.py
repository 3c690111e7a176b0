"""Makes one shard of its plan: reads, checks and encodes the clips, in their order."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from slap_jax.data.audio import SAMPLE_RATE, AudioError, decode_audio, encode_flac, to_int16
from slap_jax.data.collections.audio_location import read_audio
from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.preparation.exclusion import REASON as EXCLUDED_EVALUATION
from slap_jax.data.preparation.exclusion import ExcludedClips, excluded_clips
from slap_jax.data.preparation.plan import ShardPlan, read_block
from slap_jax.data.preparation.shard_writer import ClipFacts, clip_facts, write_shard
from slap_jax.data.records import Record

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
        for clip in _map_in_order(lambda entry: read_clip(entry, excluded), entries, threads):
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


def _map_in_order(
    function: Callable[[Entry], Clip | Rejection], entries: Iterable[Entry], threads: int
) -> Iterator[Clip | Rejection]:
    """Maps in threads, gives results in the order of the entries, and holds a few of each thread."""
    if threads == 1:
        yield from map(function, entries)
        return
    waiting: collections.deque[concurrent.futures.Future[Clip | Rejection]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        try:
            for entry in entries:
                waiting.append(pool.submit(function, entry))
                if len(waiting) >= _CLIPS_AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
