"""The findings of `slap data check`, as JSON values and as text."""

import dataclasses
from collections.abc import Iterator, Mapping

from slap_jax.data.preparation.clipping import Clipped, none_clipped
from slap_jax.errors import printable

MAX_EXAMPLES = 3
LONG_CAPTION_WORDS = 100


@dataclasses.dataclass
class Tally:
    """A count with a few examples.

    Attributes:
        count: how many clips it concerns, or how often it occurred.
        examples: where it occurred first.
    """

    count: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)

    def add(self, example: str, count: int = 1) -> None:
        """Counts one more occurrence, or several that have one cause."""
        self.count += count
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(printable(example))


@dataclasses.dataclass
class SplitCheck:
    """Size of a split.

    Attributes:
        clips: usable clips, as far as known without decoding.
        captions: number of captions of these clips.
        published_clips: according to the publisher; None if unknown.
        published_captions: per clip, the minimum where it varies; None if unknown.
    """

    clips: int = 0
    captions: int = 0
    published_clips: int | None = None
    published_captions: int | None = None


@dataclasses.dataclass
class StatedDurations:
    """Durations that the collection states for its clips."""

    clips: int = 0
    seconds: float = 0.0
    shortest_s: float = float("inf")
    longest_s: float = 0.0


@dataclasses.dataclass
class SampleCheck:
    """Result of decoding a seeded sample of the clips.

    Attributes:
        clips: size of the sample.
        unusable: reason -> clips that cannot be decoded, or are shorter than stated.
        sample_rates: Hz -> number of clips.
        channels: number of channels -> number of clips.
        shortest_s: duration of the shortest decoded clip.
        median_s: median duration of the decoded clips.
        longest_s: duration of the longest decoded clip.
        silent: clips below `SILENT_DBFS`.
        usable: split -> number of clips that can be used.
        excluded: number of clips that are left out on purpose because of their audio.
        clipped: counts of the clips that are louder than full scale.
    """

    clips: int = 0
    unusable: dict[str, Tally] = dataclasses.field(default_factory=dict)
    sample_rates: dict[int, int] = dataclasses.field(default_factory=dict)
    channels: dict[int, int] = dataclasses.field(default_factory=dict)
    shortest_s: float | None = None
    median_s: float | None = None
    longest_s: float | None = None
    silent: Tally = dataclasses.field(default_factory=Tally)
    usable: dict[str, int] = dataclasses.field(default_factory=dict)
    excluded: int = 0
    clipped: Clipped = dataclasses.field(default_factory=none_clipped)


@dataclasses.dataclass
class CheckReport:
    """All findings; docs/looking_at_data.md documents them as the keys of the JSON form.

    Attributes:
        name: name of the collection.
        folder: folder that was searched for audio files.
        source: the path of the collection, as given.
        kind: how it is read: "manifest", "folder" ..., or the title of a published dataset.
        splits: split -> size.
        rejected: reason -> clips that `slap prepare` will reject.
        excluded: reason -> number of clips that are left out on purpose.
        captions: number of captions.
        distinct_captions: number of distinct captions.
        repeated_captions: captions that an earlier clip has.
        repeated_within_clip: clips with the same caption twice.
        long_captions: captions of more than `LONG_CAPTION_WORDS` words.
        html_entities: captions with entities of HTML, such as `&amp;`.
        control_characters: captions with control characters.
        labels_only: number of clips with labels but no caption.
        shared_audio: clips that share a file with an earlier clip.
        unlisted_audio: audio files in the folder that belong to no clip.
        stated: durations; None if the collection states none.
        sample: None if nothing was decoded.
        refused: whether `slap prepare` would refuse the collection.
        problems: why it would, and findings that make results incomparable with published ones.
        notes: other findings of interest.
    """

    name: str
    folder: str
    source: str = ""
    kind: str = ""
    splits: dict[str, SplitCheck] = dataclasses.field(default_factory=dict)
    rejected: dict[str, Tally] = dataclasses.field(default_factory=dict)
    excluded: dict[str, int] = dataclasses.field(default_factory=dict)
    captions: int = 0
    distinct_captions: int = 0
    repeated_captions: Tally = dataclasses.field(default_factory=Tally)
    repeated_within_clip: Tally = dataclasses.field(default_factory=Tally)
    long_captions: Tally = dataclasses.field(default_factory=Tally)
    html_entities: Tally = dataclasses.field(default_factory=Tally)
    control_characters: Tally = dataclasses.field(default_factory=Tally)
    labels_only: int = 0
    shared_audio: Tally = dataclasses.field(default_factory=Tally)
    unlisted_audio: Tally = dataclasses.field(default_factory=Tally)
    stated: StatedDurations | None = None
    sample: SampleCheck | None = None
    refused: bool = False
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def clips(self) -> int:
        """Number of usable clips in all splits, as far as known without decoding."""
        return sum(split.clips for split in self.splits.values())

    @property
    def is_decoded(self) -> bool:
        """Whether every clip was decoded, so that the report states exactly what `slap prepare` would do."""
        return self.sample is not None and self.sample.clips == self.clips

    @property
    def usable(self) -> dict[str, int]:
        """Split -> number of clips that `slap prepare` would write; without those that were not decoded if all were."""
        if self.sample is not None and self.is_decoded:
            return self.sample.usable
        return {name: split.clips for name, split in self.splits.items() if split.clips}

    @property
    def rejected_reasons(self) -> dict[str, int]:
        """Reason -> number of clips that `slap prepare` would reject, as far as known for all clips."""
        counts = {reason: tally.count for reason, tally in self.rejected.items()}
        if self.sample is not None and self.is_decoded:
            for reason, tally in self.sample.unusable.items():
                counts[reason] = counts.get(reason, 0) + tally.count
        return counts

    @property
    def ready(self) -> bool:
        """Whether there are no problems."""
        return not self.problems


def report_values(report: CheckReport) -> dict[str, object]:
    """Returns a report as JSON values."""
    return {"ready": report.ready, "clips": report.clips, **dataclasses.asdict(report)}


def format_report(report: CheckReport) -> str:
    """Returns a report as text; its last line is the verdict."""
    lines = [f"{report.source}, read as {report.kind}"]
    lines += _split_lines(report.splits)
    for reason, tally in report.rejected.items():
        lines += _tally_lines(f"would be rejected, {reason}", tally)
    lines += [f"  left out on purpose, {reason}: {count:,}" for reason, count in report.excluded.items()]
    if report.captions:
        lines.append(f"  captions: {report.captions:,}, distinct: {report.distinct_captions:,}")
    lines += _tally_lines("captions that an earlier clip has", report.repeated_captions)
    lines += _tally_lines("clips with the same caption twice", report.repeated_within_clip)
    lines += _tally_lines("very long captions", report.long_captions)
    lines += _tally_lines("captions with HTML entities", report.html_entities)
    lines += _tally_lines("captions with control characters", report.control_characters)
    if report.labels_only:
        lines.append(f"  clips with labels but no caption: {report.labels_only:,}")
    lines += _tally_lines("clips that share a file with an earlier clip", report.shared_audio)
    lines += _tally_lines("audio files in the folder that belong to no clip", report.unlisted_audio)
    if report.stated is not None:
        stated = report.stated
        lines.append(
            f"  stated durations: {stated.shortest_s:.2f} to {stated.longest_s:.2f} s, "
            f"{stated.seconds / 3600:,.2f} hours in {stated.clips:,} clips"
        )
    if report.sample is not None:
        lines += _sample_lines(report.sample)
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"problem: {problem}" for problem in report.problems]
    return "\n".join([*lines, _verdict(report)])


def with_unit(count: int, noun: str) -> str:
    """Formats a count with its noun: "1 clip", "2,000 clips"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _verdict(report: CheckReport) -> str:
    """Says whether the collection is ready, and what `slap prepare` would do."""
    if report.refused:
        return f"not ready: `slap prepare` would refuse it; {with_unit(len(report.problems), 'problem')}"
    result = f"{with_unit(sum(report.usable.values()), 'clip')} in {with_unit(len(report.usable), 'split')}"
    if rejected := sum(report.rejected_reasons.values()):
        result += f", {rejected:,} rejected"
    if not report.ready:
        return f"not ready: {with_unit(len(report.problems), 'problem')}; `slap prepare` would write {result}"
    if report.is_decoded:
        return f"ready: {result}"
    decoded = 0 if report.sample is None else report.sample.clips
    return f"ready: {result}; {decoded:,} of them decoded"


def _split_lines(splits: Mapping[str, SplitCheck]) -> Iterator[str]:
    width = max([len("split"), *map(len, splits)])
    yield f"  {'split':{width}}  {'clips':>11}  {'captions':>11}  published"
    for name, split in splits.items():
        published = "" if split.published_clips is None else with_unit(split.published_clips, "clip")
        if split.published_captions:
            published += f", {with_unit(split.published_captions, 'caption')} per clip"
        yield f"  {name:{width}}  {split.clips:>11,}  {split.captions:>11,}  {published}".rstrip()


def _sample_lines(sample: SampleCheck) -> Iterator[str]:
    yield f"  sample of {with_unit(sample.clips, 'clip')}, decoded:"
    for reason, tally in sample.unusable.items():
        yield from _tally_lines(f"  {reason}", tally)
    if sample.median_s is not None:
        rates = ", ".join(f"{rate} Hz × {count}" for rate, count in sample.sample_rates.items())
        channels = ", ".join(f"{number} × {count}" for number, count in sample.channels.items())
        yield f"    sample rates: {rates or 'unknown'}; channels: {channels or 'unknown'}"
        yield f"    durations: {sample.shortest_s:.2f} to {sample.longest_s:.2f} s, median {sample.median_s:.2f} s"
    yield from _tally_lines("  silent", sample.silent)


def _tally_lines(title: str, tally: Tally) -> Iterator[str]:
    if tally.count:
        yield f"  {title}: {tally.count:,}"
        yield from (f"      {example}" for example in tally.examples)
