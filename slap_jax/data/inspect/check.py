"""`slap data check`: reports what is missing or odd in a collection before it is prepared."""

import html
import io
import itertools
import json
import os
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Bool
from tqdm import tqdm

from slap_jax.data.audio import AUDIO_SUFFIXES, AudioError
from slap_jax.data.clip_statistics import SILENT_DBFS
from slap_jax.data.collections.entries import (
    EXCLUDED,
    AudioFile,
    AudioLocation,
    Collection,
    Entry,
    Rejection,
)
from slap_jax.data.collections.fields import CollectionError
from slap_jax.data.collections.folders import walk_files
from slap_jax.data.collections.open_collection import KINDS
from slap_jax.data.collections.published import LayoutError, PublishedDataset
from slap_jax.data.collections.read_audio import read_audio
from slap_jax.data.datasets.reading import selected_splits
from slap_jax.data.index import hash_bytes
from slap_jax.data.inspect.check_report import (
    LONG_CAPTION_WORDS,
    CheckReport,
    SampleCheck,
    SplitCheck,
    StatedDurations,
    Tally,
    format_report,
    report_values,
)
from slap_jax.data.inspect.verdict import judge
from slap_jax.data.preparation.clipping import count_clipped
from slap_jax.data.preparation.duplicates import ExcludedClips, HashSet, excluded_clips
from slap_jax.data.preparation.plan import checked_clips
from slap_jax.data.preparation.shards import read_clip
from slap_jax.data.preparation.splits import SplitError, SplitShares, parse_shares, split_advice

DECODED_CLIPS = 50
_BLOCK = 1 << 14  # clips per update of the hash sets
_MAX_SHOWN_CHARACTERS = 80
_ENTITY = re.compile(r"&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")  # without white space


def check(
    collection: Collection | PublishedDataset,
    source: str | os.PathLike[str],
    *,
    exclude: Sequence[str] = (),
    split: str = "",
    split_seed: int = 0,
    max_rejected: int | None = None,
    decode: int = DECODED_CLIPS,
    as_json: bool = False,
    log: Callable[[str], None] = print,
) -> int:
    """Checks what `slap prepare` would do with a collection, and logs a report.

    Args:
        collection: an opened collection or published dataset.
        source: the path that it was opened from.
        exclude: as for `prepare`.
        split: as for `prepare`.
        split_seed: as for `prepare`.
        max_rejected: as for `prepare`.
        decode: number of clips to decode.
        as_json: whether the report is JSON instead of text.
        log: receives the report.

    Returns:
        The exit code: 0 if the collection is ready for `slap prepare`, 1 if there are problems.

    Raises:
        SplitError: `split` has another form.
        ExclusionError: one of `exclude` is not "PATH:SPLIT" of prepared data.
        RecordsError: one of `exclude` is not prepared.
    """
    path = Path(source)
    report = check_collection(
        collection,
        path if path.is_dir() else path.parent,
        source=os.fspath(source),
        excluded=excluded_clips(exclude),
        shares=parse_shares(split, split_seed) if split else None,
        max_rejected=max_rejected,
        decode=decode,
    )
    log(json.dumps(report_values(report), indent=2, ensure_ascii=False) if as_json else format_report(report))
    return 0 if report.ready else 1


def check_collection(
    collection: Collection | PublishedDataset,
    folder: Path,
    *,
    source: str = "",
    excluded: ExcludedClips | None = None,
    shares: SplitShares | None = None,
    max_rejected: int | None = None,
    decode: int = DECODED_CLIPS,
    seed: int = 0,
) -> CheckReport:
    """Reads everything that a collection lists, and the audio of a sample.

    Memory holds one 8-byte hash per id, file and caption.

    Args:
        collection: collection to check.
        folder: searched for audio files that belong to no clip.
        source: the path that it was opened from, for the heading; `folder` by default.
        excluded: clips that are left out on purpose.
        shares: divide a collection without splits.
        max_rejected: limit of `slap prepare` set by the user, if any.
        decode: number of clips to decode.
        seed: seed of the sample.
    """
    is_published = isinstance(collection, PublishedDataset)
    report = CheckReport(collection.name, str(folder), source or str(folder), _kind(collection))
    if isinstance(collection, PublishedDataset):
        for split, expected in selected_splits(collection).items():
            report.splits[split] = SplitCheck(published_clips=expected.clips, published_captions=expected.captions)
    excluded = excluded or excluded_clips(())
    counter = _Counter(report)
    sample = _Reservoir(decode, seed)
    try:
        with tqdm(desc="check", unit=" clips", disable=None) as progress:
            listed = checked_clips(collection, excluded, shares=shares, on_clips=progress.update)
            while block := list(itertools.islice(listed, _BLOCK)):
                for entry in counter.count(block):
                    sample.offer(entry)
    except (LayoutError, CollectionError, SplitError) as error:
        report.problems.append(str(error))
        report.refused = True
        return report
    _find_unlisted(folder, counter.files, report.unlisted_audio)
    if sample.entries:
        report.sample = decode_sample(sample.entries, excluded)
    judge(report, max_rejected)
    report.notes += split_advice(report.usable, shares, is_published=is_published)
    return report


def _kind(collection: Collection | PublishedDataset) -> str:
    """Returns how a collection is read: a key of `KINDS`, or the title of a published dataset."""
    if isinstance(collection, PublishedDataset):
        return collection.title
    return next((kind for kind, reader in KINDS.items() if type(collection) is reader), type(collection).__name__)


def decode_sample(entries: Sequence[Entry], excluded: ExcludedClips | None = None) -> SampleCheck:
    """Decodes clips as `slap prepare` does.

    Args:
        entries: the clips.
        excluded: clips that are left out on purpose.
    """
    sample = SampleCheck(clips=len(entries))
    seconds: list[float] = []
    for entry in tqdm(entries, desc="decode", unit=" clips", disable=None):
        clip = read_clip(entry, excluded)
        if isinstance(clip, Rejection):
            if clip.reason.startswith(EXCLUDED):
                sample.excluded += 1
                continue
            sample.unusable.setdefault(clip.reason, Tally()).add(f"{clip.where}: {clip.detail}")
            continue
        record, summary = clip
        sample.usable[entry.split] = sample.usable.get(entry.split, 0) + 1
        count_clipped(sample.clipped, summary.peak, summary.file)
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


class _Counter:
    """Counts the clips of a collection into a report, block by block.

    Attributes:
        files: hashes of the paths of the audio files.
    """

    def __init__(self, report: CheckReport):
        self.files = HashSet()
        self._report = report
        self._captions = HashSet()

    def count(self, block: Sequence[Entry | Rejection]) -> list[Entry]:
        """Counts a block; returns its entries."""
        for item in block:
            if isinstance(item, Rejection):
                self._reject(item)
        entries = [item for item in block if isinstance(item, Entry)]
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
            excluded[reason] = excluded.get(reason, 0) + rejection.clips
        else:
            tally = self._report.rejected.setdefault(reason, Tally())
            place = ": ".join(dict.fromkeys(text for text in (rejection.where, rejection.id) if text))
            tally.add(f"{place}: {rejection.detail}", rejection.clips)

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
            if any(html.unescape(entity) != entity for entity in _ENTITY.findall(caption)):
                self._report.html_entities.add(f"{entry.where}: {_shorten(caption)}")
            if _CONTROL_CHARACTER.search(caption):
                self._report.control_characters.add(f"{entry.where}: {_shorten(caption)!r}")
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
    try:
        audio = read_audio(location)
        info = soundfile.info(io.BytesIO(audio) if isinstance(audio, bytes) else str(audio))
    except (AudioError, RuntimeError, OSError, ValueError):  # the file is gone; libsndfile cannot read it or its path
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
