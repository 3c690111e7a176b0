"""`slap data check`: says what is missing or odd about a collection before hours are spent on preparing it.

What the findings of `slap data check` mean: problems stand in the way, notes are good to know.
"""

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
    Finding,
    SampleCheck,
    SplitCheck,
    StatedDurations,
    counted,
    format_report,
    report_values,
)
from slap_jax.data.preparation.duplicates import HashSet
from slap_jax.data.preparation.prepare import rejection_limit
from slap_jax.data.preparation.shards import read_clip
from slap_jax.data.records import full_id

# What is no named data set: a manifest, a folder, tars or tables.
COLLECTION_NAMES = ("collection", "manifest")
DECODED_CLIPS = 50
_BLOCK = 1 << 14  # clips looked at together
_SHOWN_CHARACTERS = 80


def check(
    name: str,
    folder: str | os.PathLike[str],
    *,
    options: Mapping[str, str] | None = None,
    decode: int = DECODED_CLIPS,
    as_json: bool = False,
    log: Callable[[str], None] = print,
) -> int:
    """Checks a named data set or any other collection, and says what it found.

    Args:
        name: of a data set; "collection" or "manifest" for a manifest, a folder, tars or tables.
        folder: of the data set, or the path of the collection.
        options: of the data set.
        decode: number of clips to decode.
        as_json: whether to say it as JSON.
        log: receives the text.

    Returns:
        The exit code: 0 if the collection is ready to be prepared, 1 if there are problems.

    Raises:
        LayoutError: there is no data set of this name, no such folder, or no such option.
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

    Of clips that were looked at, hashes are kept in memory: 8 bytes of each id, file and caption.

    Args:
        collection: to check.
        folder: where audio files that no clip names are looked for.
        decode: number of clips to decode.
        seed: of the sample.
    """
    report = CheckReport(collection.name, str(folder))
    if isinstance(collection, PublishedDataset):
        for split, expected in selected_splits(collection).items():
            report.splits[split] = SplitCheck(published_clips=expected.clips, published_captions=expected.captions)
    counter = _Counter(report)
    sample = _Sample(decode, seed)
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


class _Counter:
    """Counts what a collection lists into a report, block by block.

    Attributes:
        files: hashes of the audio files' paths.
    """

    def __init__(self, report: CheckReport):
        self.files = HashSet()
        self._report = report
        self._ids = HashSet()
        self._captions = HashSet()

    def count(self, block: Sequence[Entry | Rejection]) -> list[Entry]:
        """Counts a block; returns the entries of clips that were not there before."""
        for item in block:
            if isinstance(item, Rejection):
                self._reject(item)
        entries = [item for item in block if isinstance(item, Entry)]
        new = _add(self._ids, [full_id(entry.source, entry.id) for entry in entries])
        for entry in itertools.compress(entries, ~new):
            self._reject(Rejection(entry.where, entry.id, "duplicate_id", "the id was given before"))
        entries = list(itertools.compress(entries, new))
        for entry in entries:
            self._count_entry(entry)
        self._count_captions([(entry, caption) for entry in entries for caption in dict.fromkeys(entry.captions)])
        files = [(entry, entry.audio.path) for entry in entries if isinstance(entry.audio, AudioFile)]
        new = _add(self.files, [os.path.normpath(path) for _, path in files])
        for entry, path in itertools.compress(files, ~new):
            self._report.shared_audio.add(f"{entry.where}: {path}")
        return entries

    def _reject(self, rejection: Rejection) -> None:
        excluded, reason = self._report.excluded, rejection.reason
        if reason.startswith(EXCLUDED):
            excluded[reason] = excluded.get(reason, 0) + 1
        else:
            finding = self._report.rejected.setdefault(reason, Finding())
            finding.add(f"{rejection.where}: {rejection.id}: {rejection.detail}")

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
        new = _add(self._captions, [caption for _, caption in captions])
        self._report.distinct_captions += int(new.sum())
        for entry, caption in itertools.compress(captions, ~new):
            self._report.repeated_captions.add(f"{entry.where}: {_short(caption)}")
        for entry, caption in captions:
            words = len(caption.split())
            if words > LONG_CAPTION_WORDS:
                self._report.long_captions.add(f"{entry.where}: {words:,} words: {_short(caption)}")


class _Sample:
    """A random choice of clips out of as many as come, each as probable (Vitter's algorithm R).

    Attributes:
        entries: the chosen ones.
    """

    def __init__(self, size: int, seed: int):
        self.entries: list[Entry] = []
        self._size, self._seen, self._generator = size, 0, random.Random(seed)

    def offer(self, entry: Entry) -> None:
        self._seen += 1
        if len(self.entries) < self._size:
            self.entries.append(entry)
        elif (place := self._generator.randrange(self._seen)) < self._size:
            self.entries[place] = entry


def decode_sample(entries: Sequence[Entry]) -> SampleCheck:
    """Decodes clips as `slap prepare` would."""
    sample = SampleCheck(clips=len(entries))
    seconds: list[float] = []
    for entry in tqdm(entries, desc="decode", unit=" clips", disable=None):
        clip = read_clip(entry)
        if isinstance(clip, Rejection):
            sample.unusable.setdefault(clip.reason, Finding()).add(f"{clip.where}: {clip.detail}")
            continue
        record, facts = clip
        seconds.append(record.duration_s)
        if facts.loudness_dbfs < SILENT_DBFS:
            sample.silent.add(f"{entry.where}: {entry.audio}")
        form = _form(entry.audio)
        if form is not None:
            rate, channels = form
            sample.sample_rates[rate] = sample.sample_rates.get(rate, 0) + 1
            sample.channels[channels] = sample.channels.get(channels, 0) + 1
    if seconds:
        sample.shortest_s, sample.longest_s = min(seconds), max(seconds)
        sample.median_s = float(np.median(seconds))
    return sample


def _form(location: AudioLocation) -> tuple[int, int] | None:
    """Returns sample rate in Hz and number of channels; None of a format whose header libsndfile does not read."""
    audio = read_audio(location)
    try:
        info = soundfile.info(io.BytesIO(audio) if isinstance(audio, bytes) else str(audio))
    except (soundfile.SoundFileError, RuntimeError):
        return None
    return info.samplerate, info.channels


def _find_unlisted(folder: Path, listed: HashSet, unlisted: Finding) -> None:
    """Looks for audio files whose paths are not in a set of hashes."""
    found = (path for path in walk_files(folder) if not isinstance(path, Rejection))
    paths = (os.path.normpath(folder / path) for path in found if path.suffix.lower() in AUDIO_SUFFIXES)
    while block := list(itertools.islice(paths, _BLOCK)):
        for path in itertools.compress(block, _add(listed, block)):
            unlisted.add(path)


def _add(seen: HashSet, texts: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Adds texts to a set of hashes; returns which of them were new."""
    # Names of files need not be valid Unicode.
    return seen.add(np.array([hash_bytes(text.encode("utf-8", "surrogateescape")) for text in texts], np.uint64))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


LONG_CAPTION_WORDS = 100

# Fewer clips or captions than this share of the published ones are a problem.
_COMPLETE = 0.99


def judge(report: CheckReport) -> None:
    """Adds to a report the problems and notes that follow from what was counted."""
    report.problems += [*_rejections(report), *_incomplete(report), *_unusable(report)]
    report.notes += _notes(report)


def _rejections(report: CheckReport) -> Iterator[str]:
    count, allowed = _rejected(report), _allowed(report)
    if not report.clips:
        yield "no clip can be used" + (f": {_reasons(report)}" if count else "")
    elif count > allowed:
        yield (
            f"{count:,} of {report.clips + count:,} clips would be rejected ({_reasons(report)}), and `slap prepare` "
            f"accepts {allowed:,}: add or correct them, or allow as many with --max-rejected {count}"
        )


def _incomplete(report: CheckReport) -> Iterator[str]:
    published = {name: split for name, split in report.splits.items() if split.published_clips}
    total = sum(split.published_clips or 0 for split in published.values())
    listed = report.clips + _rejected(report) + sum(report.excluded.values())
    if listed < _COMPLETE * total:
        yield f"{listed:,} clips are listed, {total:,} were published: get what lists them again, or the missing parts"
    for name, split in published.items():
        if not split.clips:
            yield f"split {name} has no clip, {split.published_clips:,} were published"
        elif split.captions < _COMPLETE * split.clips * (split.published_captions or 0):
            yield (
                f"split {name} has {split.captions / split.clips:.2f} captions a clip, "
                f"{split.published_captions} were published: get its captions again"
            )


def _unusable(report: CheckReport) -> Iterator[str]:
    if report.sample is not None:
        for reason, finding in report.sample.unusable.items():
            yield f"{finding.count} unusable of {counted(report.sample.clips, 'sampled clip')} ({reason}): see above"


def _notes(report: CheckReport) -> Iterator[str]:
    count = _rejected(report)
    if report.clips and 0 < count <= _allowed(report):
        yield f"{counted(count, 'clip')} would be rejected ({_reasons(report)}), which `slap prepare` accepts"
    if report.unlisted_audio.count:
        excluded = sum(report.excluded.values())
        yield f"{counted(report.unlisted_audio.count, 'audio file')} named by no clip" + (
            f"; up to {excluded:,} of them to clips that are left out as intended" if excluded else ""
        )
    if report.long_captions.count:
        long = counted(report.long_captions.count, "caption")
        yield f"{long} of more than {LONG_CAPTION_WORDS} words; training cuts them"
    if report.sample is not None and report.sample.silent.count:
        yield f"{report.sample.silent.count} silent of {counted(report.sample.clips, 'sampled clip')}"


def _rejected(report: CheckReport) -> int:
    return sum(finding.count for finding in report.rejected.values())


def _allowed(report: CheckReport) -> int:
    return rejection_limit(report.clips + _rejected(report))


def _reasons(report: CheckReport) -> str:
    return ", ".join(f"{finding.count:,} {reason}" for reason, finding in report.rejected.items())
