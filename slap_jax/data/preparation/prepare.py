"""`slap prepare`: turns a collection of clips into a TFDS dataset of records.

A preparation lists the collection (`plan.py`), makes its shards in any order on any number of workers (`shards.py`,
`runners.py`), combines them into a dataset (`dataset_writer.py`) and replaces the published dataset (`staging.py`). If
it is interrupted, the published dataset is unchanged, and the next call reuses the finished shards.
"""

import dataclasses
import itertools
import json
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
from slap_jax.data.log_mel_statistics import KEY
from slap_jax.data.preparation.acceptance import PrepareError, check_rejections, refuse_other_source
from slap_jax.data.preparation.clipping import Clipped, clipped_lines
from slap_jax.data.preparation.dataset_writer import DUPLICATES, DatasetIdentity, FinishedShard, write_dataset
from slap_jax.data.preparation.duplicates import HashSet
from slap_jax.data.preparation.plan import CLIPS_PER_SHARD, REJECTED, Plan, ShardPlan, make_plan, rejection_line
from slap_jax.data.preparation.runners import run_local
from slap_jax.data.preparation.shards import summarise_clip, write_shard
from slap_jax.data.preparation.splits import SplitShares, parse_shares, split_advice
from slap_jax.data.preparation.staging import Staging
from slap_jax.data.records import DATASET, SUMMARY, Record, shard_name
from slap_jax.errors import require_path

Runner = Callable[[Sequence[ShardPlan], Path], None]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The contents of a prepared dataset.

    Attributes:
        directory: directory of the dataset, with its `dataset_info.json`; `open_split` accepts it or a folder above it.
        clips: split -> number of clips.
        seconds: split -> total duration.
        rejected: reason -> number of clips left out.
        clipped: number of `clips` that were louder than full scale, and the `worst`: peak and file.
        duplicates: counts of clips with equal audio: `groups`, `groups_between_splits`, `clips` (those that are not the
            first of their group), and `dropped` of these.
        reused: whether the dataset already existed, made from the same inputs.
    """

    directory: Path
    clips: dict[str, int]
    seconds: dict[str, float]
    rejected: dict[str, int]
    clipped: Clipped
    duplicates: dict[str, int]
    reused: bool


def prepare(
    source: str | os.PathLike[str] | Collection | PublishedDataset,
    output: str | os.PathLike[str],
    *,
    audio_root: str | os.PathLike[str] | None = None,
    name: str = "",
    exclude: Sequence[str] = (),
    split: str = "",
    split_seed: int = 0,
    drop_duplicates: bool = False,
    max_rejected: int | None = None,
    replace: bool = False,
    clips_per_shard: int = CLIPS_PER_SHARD,
    workers: int | None = None,
    runner: Runner | None = None,
    log: Callable[[str], None] = print,
) -> Prepared:
    """Writes the clips of a collection as records.

    The result does not depend on workers or runner. A second call with unchanged inputs writes nothing. If the
    collection has changed, only shards with changed inputs are rebuilt.

    Args:
        source: a manifest, a folder with sidecars, tars or tables (docs/collections.md), or an opened collection such
            as a published dataset.
        output: receives `NAME/VERSION/`; for data without a published name, `slap_clips/1.0.0/`.
        audio_root: base of the relative paths in a manifest; defaults to its folder.
        name: `source` of clips that state none; docs/collections.md describes the default.
        exclude: "PATH:SPLIT" of prepared data whose clips are left out.
        split: percentages such as "80/10/10" that divide a collection without splits into train, val and test.
        split_seed: another seed divides the collection differently.
        drop_duplicates: whether to keep only the first of clips with equal audio.
        max_rejected: largest accepted number of rejected clips; defaults to 1 %, but at least 10, and at most a quarter
            of the clips.
        replace: whether to replace the records of another source.
        clips_per_shard: largest number of clips in a shard; exceeded if a split would have 10,000 shards.
        workers: number of clips to decode concurrently; defaults to the number of cores.
        runner: makes the shards; defaults to `run_local`.
        log: receives each line of the summary.

    Returns:
        Counts of written and rejected clips.

    Raises:
        CollectionError: the collection cannot be read.
        PrepareError: the collection is empty, all clips were rejected, or more than `max_rejected`; or `output` holds
            the records of another source.
        SplitError: `split` has another form, or the collection names its splits itself.
        ShardError: a shard could not be written; finished shards are kept.
        StagingError: another preparation of the same dataset is running.
        UrlError: `output` or one of `exclude` is a URL.
    """
    if isinstance(source, (str, os.PathLike)):
        collection = open_collection(source, audio_root=audio_root, name=name)
    else:
        collection = source
    identity = dataset_identity(collection)
    final = Path(require_path(os.fspath(output))) / identity.name
    exclude = [os.path.abspath(require_path(each)) for each in exclude]  # workers may run in another folder
    shares = parse_shares(split, split_seed) if split else None
    ids = HashSet()

    def list_clips(folder: Path | None) -> Plan:
        ids.clear()
        with tqdm(desc="list", unit=" clips", disable=None) as progress:
            return make_plan(
                collection,
                folder,
                clips_per_block=clips_per_shard,
                exclude=exclude,
                shares=shares,
                ids=ids,
                on_clips=progress.update,
            )

    def inputs(plan: Plan) -> dict[str, Any]:
        return {"collection": plan.digest, "drop_duplicates": drop_duplicates}

    summary = _read_summary(final / identity.version)
    if summary is not None:
        plan = list_clips(None)  # nothing is written unless something has changed
        if summary["inputs"] == inputs(plan):
            check_rejections(summary["rejected"], plan.listed, max_rejected, final / identity.version / REJECTED)
            return _report(final / identity.version, summary, True, log, shares)

    with Staging(Path(output), identity) as staging:
        with staging.drop_plan_on_error():
            plan = list_clips(staging.plan)
            if not replace:
                advice = "choose another OUTPUT, or replace them with --replace"
                refuse_other_source(final / identity.version, ids, collection.name, advice)
            ids.clear()
        check_rejections(plan.rejected, plan.listed, max_rejected, staging.plan / REJECTED)
        plans = plan.shards(staging.plan, identity.name)
        staging.make_folders()
        staging.keep_only(plans)
        staging.reuse_published(plans)
        run = runner or (lambda plans, folder: run_local(plans, folder, workers or os.cpu_count() or 1))
        run([each for each in plans if not staging.has(each)], staging.folder)
        missing = [each for each in plans if not staging.has(each)]
        if missing:
            raise PrepareError(
                f"{len(missing)} of {len(plans)} shards are missing in {staging.shards}, such as {missing[0].file}; "
                "every worker must see this folder and the audio files under the same paths"
            )
        shards = [staging.finished(each.split, each.file) for each in plans]
        rejected = _write_rejections(staging, plan, shards)
        check_rejections(rejected, plan.listed, max_rejected, staging.rejected)
        contents = write_dataset(staging.dataset, identity, shards, drop_duplicates=drop_duplicates)
        staging.rejected.rename(staging.dataset / REJECTED)
        summary = {"inputs": inputs(plan), "rejected": dict(rejected), **contents}
        staging.publish(summary)
    return _report(final / identity.version, summary, False, log, shares)


def prepare_records(
    splits: Mapping[str, tuple[int, Iterable[Record]]],
    output: str | os.PathLike[str],
    inputs: Mapping[str, Any],
    log: Callable[[str], None] = print,
) -> Prepared:
    """Writes generated records, such as synthetic scenes.

    Args:
        splits: split -> (upper bound of the number of records, the records). The records are not consumed if `output`
            already has the result of the same `inputs`.
        output: directory to write to.
        inputs: JSON values that determine the records.
        log: receives each line of the summary.

    Returns:
        Counts of the written clips.

    Raises:
        PrepareError: `output` holds the records of a collection.
    """
    identity = DatasetIdentity()
    directory = Path(output) / identity.name / identity.version
    summary = _read_summary(directory)
    if summary is not None and summary["inputs"] == inputs:
        return _report(directory, summary, True, log)
    if summary is not None and "collection" in summary["inputs"]:
        raise PrepareError(f"{directory} holds clips that `slap prepare` wrote; choose another OUTPUT, or remove it")
    with Staging(Path(output), identity) as staging:
        staging.make_folders()
        shards = []
        for split, (max_records, records) in splits.items():
            clips = ((record, summarise_clip(record, record.waveform())) for record in records)
            count = max(1, -(-max_records // CLIPS_PER_SHARD))
            for number in range(count):
                shard = staging.finished(split, shard_name(identity.name, split, number, count))
                write_shard(shard.file, shard.summary_file, itertools.islice(clips, CLIPS_PER_SHARD))
                shards.append(shard)
        summary = {"inputs": dict(inputs), "rejected": {}, **write_dataset(staging.dataset, identity, shards)}
        staging.publish(summary)
    return _report(directory, summary, False, log)


def dataset_identity(collection: Collection | PublishedDataset) -> DatasetIdentity:
    """Returns name and description of the dataset of a collection; `slap_clips` unless it is a published dataset."""
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
    """Writes the rejections of the listing and of the shards to one file; returns counts by reason."""
    rejected = Counter(plan.rejected)
    with staging.rejected.open("wb") as file:
        with (staging.plan / REJECTED).open("rb") as listed:
            shutil.copyfileobj(listed, file)
        for shard in shards:
            for rejection in shard.summary().rejections:
                file.write(rejection_line(rejection))
                rejected[rejection.reason] += rejection.clips
    return Counter(dict(rejected.most_common()))


def _read_summary(directory: Path) -> dict[str, Any] | None:
    """Returns the summary of a dataset; None if there is none, or an older version wrote it."""
    try:
        summary = json.loads((directory / SUMMARY).read_text())
    except (OSError, ValueError):
        return None
    return summary if {KEY, "clipped"} <= summary.keys() else None


def _report(
    directory: Path,
    summary: Mapping[str, Any],
    reused: bool,
    log: Callable[[str], None],
    shares: SplitShares | None = None,
) -> Prepared:
    """Logs the contents of a dataset and returns them."""
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
        log(f"  reasons of all of them: {directory / REJECTED}")
    for line in clipped_lines(summary["clipped"]):
        log(f"  {line}")
    if duplicates["groups"]:
        state = "dropped" if duplicates["dropped"] else "kept; --drop-duplicates drops them"
        log(f"  clips with the audio of an earlier clip: {duplicates['clips']} ({state}), in {directory / DUPLICATES}")
    if duplicates["groups_between_splits"]:
        log(
            f"  WARNING: groups of clips with equal audio in several splits: {duplicates['groups_between_splits']}; do "
            "not train on one of these splits and evaluate on another"
        )
    for line in split_advice(splits, shares, is_published=directory.parent.name != DATASET):
        log(f"  {line}")
    return Prepared(
        directory=directory,
        clips={name: split["clips"] for name, split in splits.items()},
        seconds={name: split["seconds"] for name, split in splits.items()},
        rejected=summary["rejected"],
        clipped=summary["clipped"],
        duplicates=duplicates,
        reused=reused,
    )
