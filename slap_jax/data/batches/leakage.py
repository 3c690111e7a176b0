"""Evaluation clips are never trained on: every one is looked up in the training data, by its id and by its audio.

Only the indexes beside the records are read, so that a million training clips are checked in a fraction of a second.
Found is the same id of the same collection, and the same 16 kHz samples under any id. The same recording cut or encoded
otherwise is not found; for overlaps of that kind that are known, the named data sets have lists of clips to leave out.
"""

import dataclasses
import itertools
import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int64

from slap_jax.data.index import SplitIndex, open_index
from slap_jax.data.records import open_split
from slap_jax.errors import UserError

PathAndSplit = tuple[str | os.PathLike[str], str]

SHOWN_PAIRS = 5


class LeakageError(UserError, ValueError):
    """Clips of an evaluation set are in the training data; the message names some of them and says what to do."""


@dataclasses.dataclass(frozen=True)
class Leak:
    """The clips that an evaluation set and a training source have in common.

    Attributes:
        evaluation: name of the evaluation set.
        train: name of the training source.
        evaluation_records: [n], their numbers in the evaluation split.
        train_records: [n], the number of each in the training split.
        same_id: [n], whether it is the same clip by its id; otherwise another id has the same audio.
    """

    evaluation: str
    train: str
    evaluation_records: Int64[np.ndarray, " n"]
    train_records: Int64[np.ndarray, " n"]
    same_id: Bool[np.ndarray, " n"]


def check_leakage(train: Mapping[str, PathAndSplit], evaluation: Mapping[str, PathAndSplit]) -> None:
    """Raises if a clip of an evaluation set is in a training source; without evaluation sets nothing is read.

    Args:
        train: name -> (path, split) of the training sources.
        evaluation: name -> (path, split) of the evaluation sets.

    Raises:
        LeakageError: clips in common, by id ("source/id") or by audio (the same samples).
        RecordsError: data that are not prepared, have no such split, or no index because an older version wrote them.
    """
    if not evaluation:
        return
    leaks = find_leaks(
        {name: open_index(path, split) for name, (path, split) in train.items()},
        {name: open_index(path, split) for name, (path, split) in evaluation.items()},
    )
    if leaks:
        raise LeakageError(_describe(leaks, train, evaluation))


def find_leaks(train: Mapping[str, SplitIndex], evaluation: Mapping[str, SplitIndex]) -> list[Leak]:
    """Looks every clip of every evaluation set up in every training source.

    Args:
        train: name -> index of the training sources.
        evaluation: name -> index of the evaluation sets.

    Returns:
        A `Leak` for each set and source that have clips in common.
    """
    leaks = []
    for evaluation_name, wanted in evaluation.items():
        for train_name, index in train.items():
            by_id = index.lookup_ids(wanted.id_hash)
            found = np.where(by_id >= 0, by_id, index.lookup_audio(wanted.audio_hash))
            (records,) = np.nonzero(found >= 0)
            if len(records):
                leaks.append(Leak(evaluation_name, train_name, records, found[records], by_id[records] >= 0))
    return leaks


def _describe(leaks: list[Leak], train: Mapping[str, PathAndSplit], evaluation: Mapping[str, PathAndSplit]) -> str:
    count = sum(len(leak.train_records) for leak in leaks)
    lines = [f"evaluation clips are in the training data, {count} in all:"]
    shown = 0
    for leak in leaks:
        path, split = evaluation[leak.evaluation]
        train_path, train_split = train[leak.train]
        by_id = int(leak.same_id.sum())
        lines.append(
            f"  config.data.evaluation.{leak.evaluation} ({path}, {split}) in config.data.train.{leak.train} "
            f"({train_path}, {train_split}): {by_id} by id, {len(leak.same_id) - by_id} by audio alone"
        )
        records, train_records = open_split(path, split), open_split(train_path, train_split)
        pairs = zip(leak.evaluation_records, leak.train_records, leak.same_id, strict=True)
        for number, train_number, same_id in itertools.islice(pairs, SHOWN_PAIRS - shown):
            record, train_record = records[number], train_records[train_number]
            reason = "is there" if same_id else f"has the samples of {train_record.source}/{train_record.id}"
            lines.append(f"    {record.source}/{record.id} {reason}")
            shown += 1
    if shown < count:
        lines.append(f"    ... and {count - shown} more")
    excluded = " ".join(f"--exclude {path}:{split}" for path, split in dict.fromkeys(evaluation.values()))
    lines.append(
        "results on clips that were trained on mean nothing: prepare the training data without them "
        f"(slap prepare ... {excluded}), or take the source or the evaluation set out of the config"
    )
    return "\n".join(lines)
