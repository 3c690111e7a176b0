"""`slap data check`: reports what is missing or odd in a collection before it is prepared."""

import io
import itertools
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Bool
from tqdm import tqdm

from slap_jax.data.audio import AUDIO_SUFFIXES
from slap_jax.data.clip_statistics import SILENT_DBFS
from slap_jax.data.collections.entries import (
    EXCLUDED,
    AudioFile,
    AudioLocation,
    Collection,
    Entry,
    Rejection,
    reject_unstorable,
)
from slap_jax.data.collections.fields import CollectionError
from slap_jax.data.collections.folders import walk_files
from slap_jax.data.collections.open_collection import open_collection
from slap_jax.data.collections.published import LayoutError, PublishedDataset
from slap_jax.data.collections.read_audio import read_audio
from slap_jax.data.datasets.reading import selected_splits
from slap_jax.data.datasets.registry import open_dataset
from slap_jax.data.index import hash_bytes
from slap_jax.data.inspect.check_report import (
    CheckReport,
    SampleCheck,
    SplitCheck,
    StatedDurations,
    Tally,
    format_report,
    report_values,
    with_unit,
)
from slap_jax.data.preparation.acceptance import rejection_limit
from slap_jax.data.preparation.duplicates import HashSet
from slap_jax.data.preparation.shards import read_clip
from slap_jax.data.records import full_id

# Names that stand for a manifest, a folder, tars or tables instead of a published dataset.
COLLECTION_NAMES = ("collection", "manifest")
DECODED_CLIPS = 50
LONG_CAPTION_WORDS = 100
_COMPLETE = 0.99  # fraction of the published clips or captions below which a split is incomplete
_BLOCK = 1 << 14  # clips per update of the hash sets
_MAX_SHOWN_CHARACTERS = 80


def check(
    name: str,
    folder: str | os.PathLike[str],
    *,
    options: Mapping[str, str] | None = None,
    decode: int = DECODED_CLIPS,
    as_json: bool = False,
    log: Callable[[str], None] = print,
) -> int:
    """Checks a published dataset or any other collection and logs a report.

    Args:
        name: name of a published dataset; "collection" or "manifest" for a manifest, a folder, tars or tables.
        folder: folder of the dataset, or the path of the collection.
        options: options of the dataset.
        decode: number of clips to decode.
        as_json: whether the report is JSON instead of text.
        log: receives the report.

    Returns:
        The exit code: 0 if the collection is ready for `slap prepare`, 1 if there are problems.

    Raises:
        LayoutError: unknown dataset, folder or option.
        CollectionError: there is no such collection.
    """
    path = Path(folder)
    collection = open_collection(path) if name in COLLECTION_NAMES else open_dataset(name, path, **(options or {}))
    report = check_collection(collection, path if path.is_dir() else path.parent, decode=decode)
    log(json.dumps(report_values(report), indent=2, ensure_ascii=False) if as_json else format_report(report))
    return 0 if report.ready else 1


def check_collection(
    collection: Collection | PublishedDataset, folder: Path, *, decode: int = DECODED_CLIPS, seed: int = 0
) -> CheckReport:
    """Reads everything that a collection lists, and the audio of a sample.

    Memory holds one 8-byte hash per id, file and caption.

    Args:
        collection: collection to check.
        folder: searched for audio files that belong to no clip.
        decode: number of clips to decode.
        seed: seed of the sample.
    """
    report = CheckReport(collection.name, str(folder))
    if isinstance(collection, PublishedDataset):
        for split, expected in selected_splits(collection).items():
            report.splits[split] = SplitCheck(published_clips=expected.clips, published_captions=expected.captions)
    counter = _Counter(report)
    sample = _Reservoir(decode, seed)
    try:
        entries = iter(tqdm(collection.entries(), desc="check", unit=" clips", disable=None))
        while block := reject_unstorable(list(itertools.islice(entries, _BLOCK))):
            for entry in counter.count(block):
                sample.offer(entry)
    except (LayoutError, CollectionError) as error:
        report.problems.append(str(error))
        return report
    _find_unlisted(folder, counter.files, report.unlisted_audio)
    if sample.entries:
        report.sample = decode_sample(sample.entries)
    judge(report)
    return report


def decode_sample(entries: Sequence[Entry]) -> SampleCheck:
    """Decodes clips as `slap prepare` does."""
    sample = SampleCheck(clips=len(entries))
    seconds: list[float] = []
    for entry in tqdm(entries, desc="decode", unit=" clips", disable=None):
        clip = read_clip(entry)
        if isinstance(clip, Rejection):
            sample.unusable.setdefault(clip.reason, Tally()).add(f"{clip.where}: {clip.detail}")
            continue
        record, summary = clip
        seconds.append(record.duration_s)
        if summary.loudness_dbfs < SILENT_DBFS:
            sample.silent.add(f"{entry.where}: {entry.audio}")
        audio_format = _audio_format(entry.audio)
        if audio_format is not None:
            rate, channels = audio_format
            sample.sample_rates[rate] = sample.sample_rates.get(rate, 0) + 1
            sample.channels[channels] = sample.channels.get(channels, 0) + 1
    if seconds:
        sample.shortest_s, sample.longest_s = min(seconds), max(seconds)
        sample.median_s = float(np.median(seconds))
    return sample


def judge(report: CheckReport) -> None:
    """Adds the problems and notes that follow from the counts of a report."""
    report.problems += [*_rejections(report), *_incomplete(report), *_unusable(report)]
    report.notes += _notes(report)


class _Counter:
    """Counts the clips of a collection into a report, block by block.

    Attributes:
        files: hashes of the paths of the audio files.
    """

    def __init__(self, report: CheckReport):
        self.files = HashSet()
        self._report = report
        self._ids = HashSet()
        self._captions = HashSet()

    def count(self, block: Sequence[Entry | Rejection]) -> list[Entry]:
        """Counts a block; returns its entries without repeated ids."""
        for item in block:
            if isinstance(item, Rejection):
                self._reject(item)
        entries = [item for item in block if isinstance(item, Entry)]
        is_new = _add(self._ids, [full_id(entry.source, entry.id) for entry in entries])
        for entry in itertools.compress(entries, ~is_new):
            self._reject(Rejection(entry.where, entry.id, "duplicate_id", "an earlier clip has this id"))
        entries = list(itertools.compress(entries, is_new))
        for entry in entries:
            self._count_entry(entry)
        self._count_captions([(entry, caption) for entry in entries for caption in dict.fromkeys(entry.captions)])
        files = [(entry, entry.audio.path) for entry in entries if isinstance(entry.audio, AudioFile)]
        is_new = _add(self.files, [os.path.normpath(path) for _, path in files])
        for entry, path in itertools.compress(files, ~is_new):
            self._report.shared_audio.add(f"{entry.where}: {path}")
        return entries

    def _reject(self, rejection: Rejection) -> None:
        excluded, reason = self._report.excluded, rejection.reason
        if reason.startswith(EXCLUDED):
            excluded[reason] = excluded.get(reason, 0) + 1
        else:
            tally = self._report.rejected.setdefault(reason, Tally())
            tally.add(f"{rejection.where}: {rejection.id}: {rejection.detail}")

    def _count_entry(self, entry: Entry) -> None:
        report = self._report
        split = report.splits.setdefault(entry.split, SplitCheck())
        split.clips += 1
        split.captions += len(entry.captions)
        report.captions += len(entry.captions)
        report.labels_only += not entry.captions
        if len(set(entry.captions)) < len(entry.captions):
            report.repeated_within_clip.add(f"{entry.where}: {entry.id}")
        if entry.duration_s is not None:
            stated = report.stated = report.stated or StatedDurations()
            stated.clips += 1
            stated.seconds += entry.duration_s
            stated.shortest_s = min(stated.shortest_s, entry.duration_s)
            stated.longest_s = max(stated.longest_s, entry.duration_s)

    def _count_captions(self, captions: Sequence[tuple[Entry, str]]) -> None:
        is_new = _add(self._captions, [caption for _, caption in captions])
        self._report.distinct_captions += int(is_new.sum())
        for entry, caption in itertools.compress(captions, ~is_new):
            self._report.repeated_captions.add(f"{entry.where}: {_shorten(caption)}")
        for entry, caption in captions:
            words = len(caption.split())
            if words > LONG_CAPTION_WORDS:
                self._report.long_captions.add(f"{entry.where}: {words:,} words: {_shorten(caption)}")


class _Reservoir:
    """A uniform random sample of a stream (Vitter's algorithm R).

    Attributes:
        entries: the sample.
    """

    def __init__(self, size: int, seed: int):
        self.entries: list[Entry] = []
        self._size, self._seen, self._generator = size, 0, random.Random(seed)

    def offer(self, entry: Entry) -> None:
        self._seen += 1
        if len(self.entries) < self._size:
            self.entries.append(entry)
        elif (position := self._generator.randrange(self._seen)) < self._size:
            self.entries[position] = entry


def _audio_format(location: AudioLocation) -> tuple[int, int] | None:
    """Returns the sample rate in Hz and the number of channels; None if libsndfile cannot read the header."""
    audio = read_audio(location)
    try:
        info = soundfile.info(io.BytesIO(audio) if isinstance(audio, bytes) else str(audio))
    except (soundfile.SoundFileError, RuntimeError, UnicodeEncodeError):  # the last is of the path
        return None
    return info.samplerate, info.channels


def _find_unlisted(folder: Path, listed: HashSet, unlisted: Tally) -> None:
    """Tallies the audio files whose paths are not in a set of hashes."""
    paths = (path for path in walk_files(folder) if not isinstance(path, Rejection))
    audio = (os.path.normpath(folder / path) for path in paths if path.suffix.lower() in AUDIO_SUFFIXES)
    while block := list(itertools.islice(audio, _BLOCK)):
        for path in itertools.compress(block, _add(listed, block)):
            unlisted.add(path)


def _add(hashes: HashSet, texts: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Adds texts to a set of hashes; returns whether each is new."""
    # File names need not be valid Unicode.
    return hashes.add(np.array([hash_bytes(text.encode("utf-8", "surrogateescape")) for text in texts], np.uint64))


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}..."


def _rejections(report: CheckReport) -> Iterator[str]:
    count, allowed = _rejected(report), _allowed(report)
    if not report.clips:
        yield "there is no usable clip" + (f": {_reasons(report)}" if count else "")
    elif count > allowed:
        yield (
            f"{count:,} of {report.clips + count:,} clips would be rejected ({_reasons(report)}), but `slap prepare` "
            f"accepts {allowed:,}: add or correct them, or accept them with --max-rejected {count}"
        )


def _incomplete(report: CheckReport) -> Iterator[str]:
    published = {name: split for name, split in report.splits.items() if split.published_clips}
    total = sum(split.published_clips or 0 for split in published.values())
    listed = report.clips + _rejected(report) + sum(report.excluded.values())
    if listed < _COMPLETE * total:
        yield f"{listed:,} of {total:,} published clips are listed: download the lists or the missing parts again"
    for name, split in published.items():
        if not split.clips:
            yield f"split {name} has none of its {split.published_clips:,} published clips"
        elif split.captions < _COMPLETE * split.clips * (split.published_captions or 0):
            yield (
                f"split {name} has {split.captions / split.clips:.2f} captions per clip instead of "
                f"{split.published_captions} as published: download its captions again"
            )


def _unusable(report: CheckReport) -> Iterator[str]:
    if report.sample is not None:
        for reason, tally in report.sample.unusable.items():
            yield f"{tally.count} of {with_unit(report.sample.clips, 'sampled clip')} unusable ({reason}): see above"


def _notes(report: CheckReport) -> Iterator[str]:
    count = _rejected(report)
    if report.clips and 0 < count <= _allowed(report):
        yield f"{with_unit(count, 'clip')} would be rejected ({_reasons(report)}), within the limit of `slap prepare`"
    if report.unlisted_audio.count:
        excluded = sum(report.excluded.values())
        yield f"audio files that belong to no clip: {report.unlisted_audio.count:,}" + (
            f"; up to {excluded:,} of them to clips that are left out on purpose" if excluded else ""
        )
    if report.long_captions.count:
        long = with_unit(report.long_captions.count, "caption")
        yield f"{long} of more than {LONG_CAPTION_WORDS} words, which training cuts"
    if report.sample is not None and report.sample.silent.count:
        yield f"{report.sample.silent.count} of {with_unit(report.sample.clips, 'sampled clip')} silent"


def _rejected(report: CheckReport) -> int:
    return sum(tally.count for tally in report.rejected.values())


def _allowed(report: CheckReport) -> int:
    return rejection_limit(report.clips + _rejected(report))


def _reasons(report: CheckReport) -> str:
    return ", ".join(f"{tally.count:,} {reason}" for reason, tally in report.rejected.items())
