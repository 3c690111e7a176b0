"""What the findings of `slap data check` mean: problems stand in the way, notes are good to know."""

from collections.abc import Iterator

from slap_jax.data.checking.check_report import CheckReport, counted
from slap_jax.data.preparation.prepare import rejection_limit

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
