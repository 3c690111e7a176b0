"""What `slap data check` says of a collection: as values, and as lines to read."""

import dataclasses
from collections.abc import Iterator, Mapping

from slap_jax.data.collections.entries import printable

MOST_EXAMPLES = 3


@dataclasses.dataclass
class Finding:
    """Something that was counted.

    Attributes:
        count: how often.
        examples: where, for the first few.
    """

    count: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)

    def add(self, example: str) -> None:
        """Counts one more."""
        self.count += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(printable(example))


@dataclasses.dataclass
class SplitCheck:
    """What a split holds.

    Attributes:
        clips: that can be read, as far as that is known without decoding them.
        captions: of these clips.
        published_clips: what its publisher says, None where nothing is known.
        published_captions: of each clip; of data sets with several numbers of them, the least.
    """

    clips: int = 0
    captions: int = 0
    published_clips: int | None = None
    published_captions: int | None = None


@dataclasses.dataclass
class StatedDurations:
    """Durations that the collection's own files say."""

    clips: int = 0
    seconds: float = 0.0
    shortest_s: float = float("inf")
    longest_s: float = 0.0


@dataclasses.dataclass
class SampleCheck:
    """What decoding a seeded sample of the clips showed.

    Attributes:
        clips: in the sample.
        unusable: reason -> clips that cannot be decoded, or are shorter than stated.
        sample_rates: Hz -> clips.
        channels: number -> clips.
        shortest_s: of the clips that can be decoded, as the next two.
        median_s: see above.
        longest_s: see above.
        silent: clips below the level that `slap stats` takes for silence.
    """

    clips: int = 0
    unusable: dict[str, Finding] = dataclasses.field(default_factory=dict)
    sample_rates: dict[int, int] = dataclasses.field(default_factory=dict)
    channels: dict[int, int] = dataclasses.field(default_factory=dict)
    shortest_s: float | None = None
    median_s: float | None = None
    longest_s: float | None = None
    silent: Finding = dataclasses.field(default_factory=Finding)


@dataclasses.dataclass
class CheckReport:
    """All findings; docs/datasets.md describes them as the keys of the JSON form.

    Attributes:
        name: of the collection.
        folder: that was looked into.
        splits: split -> what it holds.
        rejected: reason -> clips that `slap prepare` leaves out because something is wrong.
        excluded: reason -> clips that it leaves out as intended.
        captions: number of captions.
        distinct_captions: number of different ones.
        repeated_captions: those that an earlier clip has too.
        repeated_within_clip: clips with the same caption twice.
        long_captions: those of more words than `LONG_CAPTION_WORDS`.
        labels_only: clips with labels and no caption.
        shared_audio: files that several clips name.
        unlisted_audio: audio files in the folder that no clip names.
        stated: durations, None where the collection says none.
        sample: None where nothing was decoded.
        problems: what stands in the way of `slap prepare` or of numbers that compare with published ones.
        notes: what is good to know.
    """

    name: str
    folder: str
    splits: dict[str, SplitCheck] = dataclasses.field(default_factory=dict)
    rejected: dict[str, Finding] = dataclasses.field(default_factory=dict)
    excluded: dict[str, int] = dataclasses.field(default_factory=dict)
    captions: int = 0
    distinct_captions: int = 0
    repeated_captions: Finding = dataclasses.field(default_factory=Finding)
    repeated_within_clip: Finding = dataclasses.field(default_factory=Finding)
    long_captions: Finding = dataclasses.field(default_factory=Finding)
    labels_only: int = 0
    shared_audio: Finding = dataclasses.field(default_factory=Finding)
    unlisted_audio: Finding = dataclasses.field(default_factory=Finding)
    stated: StatedDurations | None = None
    sample: SampleCheck | None = None
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def clips(self) -> int:
        """Number of clips of all splits."""
        return sum(split.clips for split in self.splits.values())

    @property
    def ready(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


def report_values(report: CheckReport) -> dict[str, object]:
    """Returns a report as JSON values."""
    return {"ready": report.ready, "clips": report.clips, **dataclasses.asdict(report)}


def format_report(report: CheckReport) -> str:
    """Returns a report as text whose last line is the verdict."""
    lines = [f"{report.name} in {report.folder}"]
    lines += _split_lines(report.splits)
    for reason, finding in report.rejected.items():
        lines += _finding_lines(f"would be rejected, {reason}", finding)
    lines += [f"  left out as intended, {reason}: {count:,}" for reason, count in report.excluded.items()]
    if report.captions:
        lines.append(f"  captions: {report.captions:,}, different ones: {report.distinct_captions:,}")
    lines += _finding_lines("captions that an earlier clip has too", report.repeated_captions)
    lines += _finding_lines("clips with the same caption twice", report.repeated_within_clip)
    lines += _finding_lines("very long captions", report.long_captions)
    if report.labels_only:
        lines.append(f"  clips with labels and no caption: {report.labels_only:,}")
    lines += _finding_lines("audio files of several clips", report.shared_audio)
    lines += _finding_lines("audio files in the folder that no clip names", report.unlisted_audio)
    if report.stated is not None:
        stated = report.stated
        lines.append(
            f"  stated durations: {stated.shortest_s:.2f} to {stated.longest_s:.2f} s, "
            f"{stated.seconds / 3600:,.2f} hours of {stated.clips:,} clips"
        )
    if report.sample is not None:
        lines += _sample_lines(report.sample)
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"problem: {problem}" for problem in report.problems]
    return "\n".join([*lines, _verdict(report)])


def counted(count: int, noun: str) -> str:
    """Returns a number and a noun: "1 clip", "2,000 clips"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _verdict(report: CheckReport) -> str:
    if report.ready:
        return f"ready: {counted(report.clips, 'clip')} in {counted(len(report.splits), 'split')}"
    return counted(len(report.problems), "problem")


def _split_lines(splits: Mapping[str, SplitCheck]) -> Iterator[str]:
    width = max([len("split"), *map(len, splits)])
    yield f"  {'split':{width}}  {'clips':>11}  {'captions':>11}  published"
    for name, split in splits.items():
        published = "" if split.published_clips is None else f"{split.published_clips:,} clips"
        if split.published_captions:
            published += f", captions of each: {split.published_captions}"
        yield f"  {name:{width}}  {split.clips:>11,}  {split.captions:>11,}  {published}".rstrip()


def _sample_lines(sample: SampleCheck) -> Iterator[str]:
    yield f"  sample of {sample.clips:,} clips, decoded:"
    for reason, finding in sample.unusable.items():
        yield from _finding_lines(f"  {reason}", finding)
    if sample.median_s is not None:
        rates = ", ".join(f"{rate} Hz × {count}" for rate, count in sample.sample_rates.items())
        channels = ", ".join(f"{number} × {count}" for number, count in sample.channels.items())
        yield f"    sample rates: {rates or 'unknown'}; channels: {channels or 'unknown'}"
        yield f"    durations: {sample.shortest_s:.2f} to {sample.longest_s:.2f} s, median {sample.median_s:.2f} s"
    yield from _finding_lines("  silent", sample.silent)


def _finding_lines(what: str, finding: Finding) -> Iterator[str]:
    if finding.count:
        yield f"  {what}: {finding.count:,}"
        yield from (f"      {example}" for example in finding.examples)
