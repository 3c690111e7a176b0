"""What the counts of `slap data check` mean: whether `slap prepare` would accept it, and what to correct."""

from collections.abc import Iterator, Mapping

from slap_jax.data.inspect.check_report import LONG_CAPTION_WORDS, CheckReport, SampleCheck, Tally, with_unit
from slap_jax.data.preparation.acceptance import rejection_limit
from slap_jax.data.preparation.clipping import clipped_lines

_COMPLETE = 0.99  # fraction of the published clips or captions below which a split is incomplete


def judge(report: CheckReport, max_rejected: int | None = None) -> None:
    """Adds the verdict, the problems and the notes that follow from the counts of a report.

    Args:
        report: counts of a collection and, if clips were decoded, of its sample.
        max_rejected: limit of `slap prepare` set by the user, if any.
    """
    excluded = report.sample.excluded if report.sample is not None and report.is_decoded else 0
    allowed = rejection_limit(report.clips + _clips(report.rejected) - excluded, max_rejected)
    refusals = list(_refusals(report, allowed))
    report.refused = bool(refusals)
    report.problems += [*refusals, *_incomplete(report)]
    report.notes += _notes(report, allowed)


def _refusals(report: CheckReport, allowed: int) -> Iterator[str]:
    """Says why `slap prepare` would refuse the collection; nothing if it would accept it."""
    rejected = report.rejected_reasons
    count, total = sum(rejected.values()), report.clips + _clips(report.rejected)
    if not sum(report.usable.values()):
        left_out = rejected | report.excluded
        yield "there is no usable clip" + (f": {_reasons(left_out)}" if left_out else "")
    elif count > allowed:
        yield (
            f"{count:,} of {total:,} clips would be rejected ({_reasons(rejected)}), but `slap prepare` accepts "
            f"{allowed:,}: add or correct them, or accept them with --max-rejected {count}"
        )
    elif (sample := report.sample) is not None and (expected := _expected_rejections(report, sample)) > allowed:
        yield (
            f"{_clips(sample.unusable)} of {with_unit(sample.clips, 'sampled clip')} cannot be used "
            f"({_tally_reasons(sample.unusable)}), so about {expected:,} of {total:,} would be rejected, but `slap "
            f"prepare` accepts {allowed:,}: correct them, or count them all with --decode {report.clips}"
        )


def _expected_rejections(report: CheckReport, sample: SampleCheck) -> int:
    """Estimates how many clips `slap prepare` would reject if the sample stands for all clips."""
    return _clips(report.rejected) + round(_clips(sample.unusable) / sample.clips * report.clips)


def _incomplete(report: CheckReport) -> Iterator[str]:
    published = {name: split for name, split in report.splits.items() if split.published_clips}
    total = sum(split.published_clips or 0 for split in published.values())
    listed = report.clips + _clips(report.rejected) + sum(report.excluded.values())
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


def _notes(report: CheckReport, allowed: int) -> Iterator[str]:
    rejected, sample = report.rejected_reasons, report.sample
    count = sum(rejected.values())
    if 0 < count <= allowed and not report.refused:
        yield (
            f"{with_unit(count, 'clip')} would be rejected ({_reasons(rejected)}), within the limit of `slap prepare` "
            f"({allowed:,})"
        )
    if sample is not None and sample.unusable and not report.is_decoded and not report.refused:
        yield (
            f"{_clips(sample.unusable)} of {with_unit(sample.clips, 'sampled clip')} cannot be used "
            f"({_tally_reasons(sample.unusable)}); `slap prepare` decodes all {report.clips:,}"
        )
    if report.unlisted_audio.count:
        excluded = sum(report.excluded.values())
        yield f"audio files that belong to no clip: {report.unlisted_audio.count:,}" + (
            f"; up to {excluded:,} of them to clips that are left out on purpose" if excluded else ""
        )
    if report.long_captions.count:
        long = with_unit(report.long_captions.count, "caption")
        yield f"{long} of more than {LONG_CAPTION_WORDS} words, which training cuts"
    if report.html_entities.count:
        entities = with_unit(report.html_entities.count, "caption")
        yield f"{entities} with HTML entities such as &amp;, which are kept as text: decode them in the source"
    if report.control_characters.count:
        control = with_unit(report.control_characters.count, "caption")
        yield f"{control} with control characters, which are kept: remove them in the source"
    if sample is not None and sample.silent.count:
        yield f"{sample.silent.count} of {with_unit(sample.clips, 'sampled clip')} silent"
    if sample is not None:
        yield from clipped_lines(sample.clipped)


def _clips(tallies: Mapping[str, Tally]) -> int:
    return sum(tally.count for tally in tallies.values())


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


def _tally_reasons(tallies: Mapping[str, Tally]) -> str:
    return _reasons({reason: tally.count for reason, tally in tallies.items()})
