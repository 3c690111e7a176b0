"""`slap prepare`: a manifest in, `array_record` shards of one schema out; bad clips are counted and listed."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from slap_jax.data.audio import RESAMPLE_QUALITY, SAMPLE_RATE, AudioError, decode_audio
from slap_jax.data.builders.clips import DATASET, SCHEMA_VERSION, SplitStream, write_splits
from slap_jax.data.entries import Entry, Rejection, count_reasons
from slap_jax.data.manifest import read_manifest
from slap_jax.data.records import SUMMARY, Record, make_record

REJECTED = "rejected.jsonl"
LEAST_ALLOWED_REJECTIONS = 10
ALLOWED_REJECTION_SHARE = 0.01

# The manifest's duration and the decoded one differ by padding of codecs; a truncated file differs by more.
_DURATION_TOLERANCE = 0.1
_STAGING = ".staging"
_PREVIOUS = ".previous"

Item = TypeVar("Item")
Result = TypeVar("Result")


class PrepareError(ValueError):
    """Too many clips were rejected, or all of them."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a data set holds.

    Attributes:
        directory: given as output; what `open_split` takes.
        clips: split -> number of clips.
        seconds: split -> their duration.
        rejected: reason -> number of clips left out.
        reused: whether it was there already, made from the same inputs.
    """

    directory: Path
    clips: dict[str, int]
    seconds: dict[str, float]
    rejected: dict[str, int]
    reused: bool


def prepare(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    audio_root: str | os.PathLike[str] | None = None,
    name: str = "",
    max_rejected: int | None = None,
    workers: int | None = None,
    log: Callable[[str], None] = print,
) -> Prepared:
    """Writes the clips of a manifest as records.

    The result does not depend on `workers`. A second call with unchanged inputs writes nothing. The new data set takes
    the old one's place only once it is complete and accepted; until then the old one stays as it is.

    Args:
        source: `.jsonl` or `.csv` manifest, or a folder with sidecars (docs/data_format.md).
        output: directory to write to; receives `slap_clips/<version>/` and `rejected.jsonl`.
        audio_root: what the manifest's paths are relative to; its folder by default.
        name: `source` of clips whose line names none; the manifest's folder by default.
        max_rejected: the most clips that may be rejected; by default 1 % of them, and at least 10.
        workers: decoding threads; one per core by default.
        log: receives each line of the summary.

    Returns:
        Counts of what was written and what was left out.

    Raises:
        ManifestError: the manifest cannot be read at all.
        PrepareError: more than `max_rejected` clips were rejected, or every one.
    """
    output = Path(output)
    entries, rejections = read_manifest(source, audio_root, name)
    total = len(entries) + len(rejections)
    allowed = max_rejected
    if allowed is None:
        allowed = max(LEAST_ALLOWED_REJECTIONS, math.ceil(ALLOWED_REJECTION_SHARE * total))

    def build(directory: Path) -> dict[str, int]:
        output.mkdir(parents=True, exist_ok=True)
        with (output / REJECTED).open("w", encoding="utf-8") as file:
            return _write_entries(entries, rejections, directory, file, workers or os.cpu_count() or 1)

    def accept(rejected: Mapping[str, int]) -> None:
        count = sum(rejected.values())
        reasons = ", ".join(f"{number} {reason}" for reason, number in rejected.items())
        if count == total:
            raise PrepareError(f"all {total} clips of {source} were rejected ({reasons}); see {output / REJECTED}")
        if count > allowed:
            raise PrepareError(
                f"{count} of {total} clips of {source} were rejected ({reasons}), more than max_rejected={allowed}; "
                f"see {output / REJECTED}, then correct them, or allow as many with --max-rejected {count} "
                "(the good clips are kept and not decoded again)"
            )

    inputs = {"entries": _digest(entries), "rejected_lines": len(rejections)}
    return _publish(output, inputs, build, accept, log)


def prepare_records(
    splits: Mapping[str, tuple[int, Iterable[Record]]],
    output: str | os.PathLike[str],
    inputs: Mapping[str, Any],
    log: Callable[[str], None] = print,
) -> Prepared:
    """Writes records that are made, not read, such as synthetic scenes; otherwise as `prepare`.

    Args:
        splits: split -> (the most records that may come, the records); nothing is taken from them if `output` holds
            the result of the same `inputs` already.
        output: directory to write to.
        inputs: JSON values that determine the records.
        log: receives each line of the summary.
    """

    def build(directory: Path) -> dict[str, int]:
        write_splits({name: SplitStream(most, iter(records)) for name, (most, records) in splits.items()}, directory)
        return {}

    return _publish(Path(output), dict(inputs), build, lambda rejected: None, log)


def _publish(
    output: Path,
    inputs: Mapping[str, Any],
    build: Callable[[Path], dict[str, int]],
    accept: Callable[[Mapping[str, int]], None],
    log: Callable[[str], None],
) -> Prepared:
    """Builds beside the present data set and exchanges them at the end, unless the same inputs were built already."""
    final, staging = output / DATASET, output / _STAGING
    summary = _read_summary(final, inputs)
    reused = summary is not None
    if summary is None:
        summary = _read_summary(staging / DATASET, inputs)
        if summary is None:
            shutil.rmtree(staging, ignore_errors=True)
            rejected = build(staging)
            summary = _complete_summary(staging / DATASET, inputs, rejected)
    accept(summary["rejected"])
    if not reused:
        previous = output / _PREVIOUS
        shutil.rmtree(previous, ignore_errors=True)
        if final.exists():
            final.rename(previous)
        (staging / DATASET).rename(final)
        shutil.rmtree(previous, ignore_errors=True)
        shutil.rmtree(staging, ignore_errors=True)
    prepared = Prepared(
        directory=output,
        clips={name: split["clips"] for name, split in summary["splits"].items()},
        seconds={name: split["seconds"] for name, split in summary["splits"].items()},
        rejected=summary["rejected"],
        reused=reused,
    )
    _report(prepared, log)
    return prepared


def _summary_file(dataset: Path) -> Path:
    return dataset / SCHEMA_VERSION / SUMMARY


def _read_summary(dataset: Path, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the summary of a complete data set made from `inputs`, None of anything else."""
    try:
        summary = json.loads(_summary_file(dataset).read_text())
    except (OSError, ValueError):
        return None
    return summary if summary.get("inputs") == inputs else None


def _complete_summary(dataset: Path, inputs: Mapping[str, Any], rejected: dict[str, int]) -> dict[str, Any]:
    """Adds to the writer's summary what the data set was made from; only then it counts as complete."""
    file = _summary_file(dataset)
    contents = json.loads(file.read_text()) if file.is_file() else {"splits": {}}
    summary = {"inputs": dict(inputs), "rejected": rejected, **contents}
    if file.is_file():
        file.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _write_entries(
    entries: Sequence[Entry], rejections: Sequence[Rejection], directory: Path, rejected_file: TextIO, workers: int
) -> dict[str, int]:
    """Decodes and writes entries split by split; returns how many were rejected, by reason."""
    found = list(rejections)

    def note(rejection: Rejection) -> None:
        rejected_file.write(json.dumps(dataclasses.asdict(rejection), ensure_ascii=False) + "\n")
        rejected_file.flush()

    for rejection in rejections:
        note(rejection)
    by_split: dict[str, list[Entry]] = {}
    for entry in entries:
        by_split.setdefault(entry.split, []).append(entry)

    with (
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(entries), desc="prepare", unit=" clips", disable=None) as progress,
    ):

        def good(results: Iterator[Record | Rejection]) -> Iterator[Record]:
            for result in results:
                progress.update()
                if isinstance(result, Rejection):
                    found.append(result)
                    note(result)
                else:
                    yield result

        splits = {}
        for name, members in by_split.items():
            records = good(_map_in_order(pool, read_entry, members, 4 * workers))
            first = next(records, None)  # a split without a single good clip does not exist
            if first is not None:
                splits[name] = SplitStream(len(members), itertools.chain([first], records))
        if splits:
            write_splits(splits, directory)
    return count_reasons(found)


def read_entry(entry: Entry) -> Record | Rejection:
    """Decodes the audio of a manifest entry; what cannot be used becomes a rejection."""
    try:
        samples = decode_audio(entry.audio.path)
    except AudioError as error:
        return Rejection(entry.where, entry.id, error.reason, str(error))
    seconds = len(samples) / SAMPLE_RATE
    if entry.duration_s is not None and seconds < (1 - _DURATION_TOLERANCE) * entry.duration_s - _DURATION_TOLERANCE:
        return Rejection(
            entry.where,
            entry.id,
            "shorter_than_stated",
            f"{entry.audio} lasts {seconds:.2f} s; the manifest says duration_s={entry.duration_s}: copy it again",
        )
    return make_record(
        entry.id,
        samples,
        entry.captions,
        labels=entry.labels,
        regions=entry.regions,
        source=entry.source,
        caption_source=entry.caption_source,
        licence=entry.licence,
    )


def _map_in_order(
    pool: concurrent.futures.Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Maps in parallel, gives results in the order of the items, and holds at most `ahead` of them."""
    waiting: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _digest(entries: Sequence[Entry]) -> str:
    """Hashes everything that the records depend on; of the audio files, their size and time of change."""
    digest = hashlib.blake2b(f"{SCHEMA_VERSION} {SAMPLE_RATE} {RESAMPLE_QUALITY}".encode(), digest_size=16)
    for entry in entries:
        status = entry.audio.path.stat()
        digest.update(repr((dataclasses.astuple(entry), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


def _report(prepared: Prepared, log: Callable[[str], None]) -> None:
    state = "already prepared" if prepared.reused else "prepared"
    log(f"{prepared.directory}: {state}")
    for split, clips in prepared.clips.items():
        log(f"  {split}: {clips} clips, {prepared.seconds[split] / 60:.1f} minutes")
    for reason, count in prepared.rejected.items():
        log(f"  rejected, {reason}: {count}")
    if prepared.rejected:
        log(f"  each rejected clip with its reason: {prepared.directory / REJECTED}")
