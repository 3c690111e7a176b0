"""`slap prepare`: a collection of clips in, a TFDS data set of records out.

A preparation lists the collection (`preparation_plan`), makes its shards in any order on any number of workers
(`prepare_shard`), makes a data set of them (`dataset_writer`) and exchanges it for the present one. Whatever stops it,
the present data set stays as it is, and the next call goes on with the shards that are finished.
"""

import dataclasses
import itertools
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slap_jax.data.collections.entries import EXCLUDED, Collection
from slap_jax.data.collections.open_collection import open_collection
from slap_jax.data.collections.published import PublishedDataset
from slap_jax.data.preparation.dataset_writer import DUPLICATES, DatasetIdentity, FinishedShard, write_dataset
from slap_jax.data.preparation.plan import CLIPS_PER_SHARD, REJECTED, Plan, ShardPlan, make_plan, rejection_line
from slap_jax.data.preparation.runners import run_local
from slap_jax.data.preparation.shards import clip_facts, write_shard
from slap_jax.data.preparation.staging import Staging
from slap_jax.data.records import SUMMARY, Record, shard_name
from slap_jax.errors import UserError, require_path

LEAST_ALLOWED_REJECTIONS = 10
ALLOWED_REJECTION_SHARE = 0.01
Runner = Callable[[Sequence[ShardPlan], Path], None]


class PrepareError(UserError, ValueError):
    """Too many clips were rejected, or all of them, or the shards did not arrive."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a data set holds.

    Attributes:
        directory: of the data set, with its `dataset_info.json`; `open_split` takes it, or a folder above it.
        clips: split -> number of clips.
        seconds: split -> their duration.
        rejected: reason -> number of clips left out.
        duplicates: `groups` of clips with the same audio, how many of them lie `between_splits`, the `clips` that are
            not the first of their group, and how many of these were `dropped`.
        reused: whether it was there already, made from the same inputs.
    """

    directory: Path
    clips: dict[str, int]
    seconds: dict[str, float]
    rejected: dict[str, int]
    duplicates: dict[str, int]
    reused: bool


def prepare(
    source: str | os.PathLike[str] | Collection | PublishedDataset,
    output: str | os.PathLike[str],
    *,
    audio_root: str | os.PathLike[str] | None = None,
    name: str = "",
    exclude: Sequence[str] = (),
    drop_duplicates: bool = False,
    max_rejected: int | None = None,
    clips_per_shard: int = CLIPS_PER_SHARD,
    workers: int | None = None,
    runner: Runner | None = None,
    log: Callable[[str], None] = print,
) -> Prepared:
    """Writes the clips of a collection as records.

    The result does not depend on workers and runners. A second call with unchanged inputs writes nothing; after a
    change of the collection, shards that it does not touch are taken over.

    Args:
        source: a manifest, a folder with sidecars, tars or tables (docs/collections.md), or an opened collection, such
            as a named data set.
        output: directory to write to; receives `NAME/VERSION/`, `slap_clips/1.0.0/` unless the data set has a name.
        audio_root: what a manifest's paths are relative to; its folder by default.
        name: `source` of clips that name none; the folder's name by default.
        exclude: "PATH:SPLIT" of prepared data whose clips are left out.
        drop_duplicates: whether to keep only the first of clips with the same audio.
        max_rejected: the most clips that may be rejected; by default 1 % of them, and at least 10.
        clips_per_shard: the most clips of a shard; more where a split would have 10,000 shards.
        workers: clips to decode at a time on this machine; one per core by default.
        runner: makes the shards; `run_local` by default.
        log: receives each line of the summary.

    Returns:
        Counts of what was written and what was left out.

    Raises:
        CollectionError: the collection cannot be read at all.
        PrepareError: it is empty, or more than `max_rejected` of its clips were rejected, or every one.
        ShardError: a shard could not be written; those that are finished are kept.
        StagingError: another preparation is at work on the same data set.
        UrlError: `output` or one of `exclude` is a URL.
    """
    if isinstance(source, (str, os.PathLike)):
        collection = open_collection(source, audio_root=audio_root, name=name)
    else:
        collection = source
    identity = dataset_identity(collection)
    final = Path(require_path(os.fspath(output))) / identity.name
    exclude = [os.path.abspath(require_path(each)) for each in exclude]  # workers may run in other folders

    def list_clips(folder: Path | None) -> Plan:
        with tqdm(desc="list", unit=" clips", disable=None) as progress:
            return make_plan(
                collection, folder, clips_per_block=clips_per_shard, exclude=exclude, on_clips=progress.update
            )

    def inputs(plan: Plan) -> dict[str, Any]:
        return {"collection": plan.digest, "drop_duplicates": drop_duplicates}

    summary = _read_summary(final / identity.version)
    if summary is not None:
        plan = list_clips(None)  # nothing is written unless something has changed
        if summary["inputs"] == inputs(plan):
            _accept(summary["rejected"], plan, max_rejected, final / identity.version / REJECTED)
            return _report(final / identity.version, summary, True, log)

    with Staging(Path(output), identity) as staging:
        plan = list_clips(staging.plan)
        _accept(plan.rejected, plan, max_rejected, staging.plan / REJECTED)
        plans = plan.shards(staging.plan, identity.name)
        staging.make_folders()
        staging.keep_only(plans)
        staging.take_over(plans)
        run = runner or (lambda plans, folder: run_local(plans, folder, workers or os.cpu_count() or 1))
        run([each for each in plans if not staging.has(each)], staging.folder)
        missing = [each for each in plans if not staging.has(each)]
        if missing:
            raise PrepareError(
                f"{len(missing)} of {len(plans)} shards did not arrive in {staging.shards}, like {missing[0].file}; "
                "every worker must see this folder, and the audio files, under the same names"
            )
        shards = [staging.finished(each.split, each.file) for each in plans]
        rejected = _write_rejections(staging, plan, shards)
        _accept(rejected, plan, max_rejected, staging.rejected)
        contents = write_dataset(staging.dataset, identity, shards, drop_duplicates=drop_duplicates)
        staging.rejected.rename(staging.dataset / REJECTED)
        summary = {"inputs": inputs(plan), "rejected": dict(rejected), **contents}
        staging.publish(summary)
    return _report(final / identity.version, summary, False, log)


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
    identity = DatasetIdentity()
    directory = Path(output) / identity.name / identity.version
    summary = _read_summary(directory)
    if summary is not None and summary["inputs"] == inputs:
        return _report(directory, summary, True, log)
    with Staging(Path(output), identity) as staging:
        staging.make_folders()
        shards = []
        for split, (most, records) in splits.items():
            clips = ((record, clip_facts(record, record.waveform())) for record in records)
            count = max(1, -(-most // CLIPS_PER_SHARD))
            for number in range(count):
                shard = staging.finished(split, shard_name(identity.name, split, number, count))
                write_shard(shard.file, shard.summary_file, itertools.islice(clips, CLIPS_PER_SHARD))
                shards.append(shard)
        summary = {"inputs": dict(inputs), "rejected": {}, **write_dataset(staging.dataset, identity, shards)}
        staging.publish(summary)
    return _report(directory, summary, False, log)


def rejection_limit(clips: int, max_rejected: int | None = None) -> int:
    """Returns how many clips of a collection may be rejected.

    Args:
        clips: good and bad ones, without those that are left out as intended.
        max_rejected: as the user says, if they say.
    """
    if max_rejected is not None:
        return max_rejected
    return max(LEAST_ALLOWED_REJECTIONS, math.ceil(ALLOWED_REJECTION_SHARE * clips))


def dataset_identity(collection: Collection | PublishedDataset) -> DatasetIdentity:
    """Returns what the data set of a collection is called; what has no published name is called `slap_clips`."""
    if not isinstance(collection, PublishedDataset):
        return DatasetIdentity()
    return DatasetIdentity(
        name=collection.name,
        version=collection.version,
        description=f"{collection.title}. {DatasetIdentity.description}",
        homepage=collection.homepage,
        licence=collection.licence,
        citation=collection.citation,
    )


def _write_rejections(staging: Staging, plan: Plan, shards: Sequence[FinishedShard]) -> Counter[str]:
    """Joins the rejections of the listing and of the shards in one file; returns counts by reason."""
    rejected = Counter(plan.rejected)
    with staging.rejected.open("wb") as file:
        with (staging.plan / REJECTED).open("rb") as listed:
            shutil.copyfileobj(listed, file)
        for shard in shards:
            for rejection in shard.summary().rejections:
                file.write(rejection_line(rejection))
                rejected[rejection.reason] += 1
    return Counter(dict(rejected.most_common()))


def _accept(rejected: Mapping[str, int], plan: Plan, max_rejected: int | None, file: Path) -> None:
    """Raises if there are more rejections than allowed, before or after decoding."""
    bad = {reason: number for reason, number in rejected.items() if not reason.startswith(EXCLUDED)}
    count, listed = sum(bad.values()), plan.clips + sum(plan.rejected.values())
    intended = sum(rejected.values()) - count
    reasons = ", ".join(f"{number} {reason}" for reason, number in rejected.items())
    total = listed - intended
    if not listed:
        raise PrepareError("the collection holds no clips")
    if count == total:
        raise PrepareError(f"all {listed} clips were left out ({reasons}); see {file}")
    allowed = rejection_limit(total, max_rejected)
    if count > allowed:
        raise PrepareError(
            f"{count} of {total} clips were rejected ({reasons}), more than max_rejected={allowed}; see {file}, then "
            f"correct them, or allow as many with --max-rejected {count} (no clip is decoded twice)"
        )


def _read_summary(directory: Path) -> dict[str, Any] | None:
    """Returns the summary of a data set; None if there is none, or one of an older version."""
    try:
        summary = json.loads((directory / SUMMARY).read_text())
    except (OSError, ValueError):
        return None
    return summary if "duplicates" in summary else None


def _report(directory: Path, summary: Mapping[str, Any], reused: bool, log: Callable[[str], None]) -> Prepared:
    """Says what a data set holds, and returns it."""
    splits, duplicates = summary["splits"], summary["duplicates"]
    log(f"{directory}: {'already prepared' if reused else 'prepared'}")
    for name, split in splits.items():
        durations = split["duration_s"]["quantiles"]
        log(
            f"  {name}: {split['clips']} clips, {split['seconds'] / 60:.1f} minutes, "
            f"{durations['0%']:g} to {durations['100%']:g} s, median {durations['50%']:g} s, "
            f"{split['loudness_dbfs']['quantiles']['50%']:.0f} dBFS"
        )
    for reason, count in summary["rejected"].items():
        log(f"  {'left out' if reason.startswith(EXCLUDED) else 'rejected'}, {reason}: {count}")
    if summary["rejected"]:
        log(f"  each of them with its reason: {directory / REJECTED}")
    if duplicates["groups"]:
        state = "dropped" if duplicates["dropped"] else "kept; --drop-duplicates would drop them"
        log(f"  {duplicates['clips']} clips have the audio of an earlier one ({state}): {directory / DUPLICATES}")
    if duplicates["groups_between_splits"]:
        log(
            f"  WARNING: {duplicates['groups_between_splits']} of these groups lie in more than one split: "
            "what is measured on one of the splits after training on the other means nothing"
        )
    return Prepared(
        directory=directory,
        clips={name: split["clips"] for name, split in splits.items()},
        seconds={name: split["seconds"] for name, split in splits.items()},
        rejected=summary["rejected"],
        duplicates=duplicates,
        reused=reused,
    )
