"""Evaluation clips must not be training clips: each one is looked up in the training data, by its audio and by its id.

Only the indexes next to the records are read, so a million training clips are checked in a fraction of a second. Equal
16 kHz samples are leakage, under any id, and stop the run. An equal id with other samples is only a warning: two
collections may number their clips alike, but it may also be another encoding of the same recording. A recording that
was cut or encoded differently and has another id is not detected; for known overlaps of that kind, the published data
sets have lists of clips to exclude.
"""

import dataclasses
import itertools
import logging
import os
from collections.abc import Mapping, Sequence

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
class Overlap:
    """The clips that an evaluation set and a training source have in common.

    Attributes:
        evaluation: name of the evaluation set.
        train: name of the training source.
        evaluation_records: [n], indices in the evaluation split.
        train_records: [n], indices in the training split.
        same_audio: [n], whether the samples are equal; otherwise only the ids are.
    """

    evaluation: str
    train: str
    evaluation_records: Int64[np.ndarray, " n"]
    train_records: Int64[np.ndarray, " n"]
    same_audio: Bool[np.ndarray, " n"]

    def select(self, same_audio: bool) -> "Overlap":
        """Returns the clips with equal samples, or those with equal ids only."""
        chosen = self.same_audio == same_audio
        return dataclasses.replace(
            self,
            evaluation_records=self.evaluation_records[chosen],
            train_records=self.train_records[chosen],
            same_audio=self.same_audio[chosen],
        )


def check_leakage(train: Mapping[str, PathAndSplit], evaluation: Mapping[str, PathAndSplit]) -> None:
    """Raises if a clip of an evaluation set is in a training source, and warns if only its id is.

    Without evaluation sets nothing is read.

    Args:
        train: name -> (path, split) of the training sources.
        evaluation: name -> (path, split) of the evaluation sets.

    Raises:
        LeakageError: an evaluation set and a training source have clips with the same samples.
        RecordsError: data are not prepared, a split does not exist, or an older version wrote data without an index.
    """
    if not evaluation:
        return
    overlaps = find_overlaps(
        {name: open_index(path, split) for name, (path, split) in train.items()},
        {name: open_index(path, split) for name, (path, split) in evaluation.items()},
    )
    same_id, same_audio = (
        [part for overlap in overlaps if len((part := overlap.select(audio)).train_records)] for audio in (False, True)
    )
    if same_id:
        logging.warning(
            "%d evaluation clips have the id of a training clip, but other samples:\n%s\nif they are the same "
            "recordings in another encoding, results on them are meaningless: prepare the training data without them "
            "(slap prepare ... %s); otherwise give the collections different sources",
            _count(same_id),
            _describe(same_id, train, evaluation),
            _exclude_options(evaluation),
        )
    if same_audio:
        raise LeakageError(
            f"evaluation clips are in the training data, {_count(same_audio)} in all:\n"
            f"{_describe(same_audio, train, evaluation)}\n"
            "results on clips that were trained on are meaningless: prepare the training data without them "
            f"(slap prepare ... {_exclude_options(evaluation)}), or remove the source or the evaluation set from the "
            "config"
        )


def find_overlaps(train: Mapping[str, SplitIndex], evaluation: Mapping[str, SplitIndex]) -> list[Overlap]:
    """Looks up every clip of every evaluation set in every training source.

    Args:
        train: name -> index of the training sources.
        evaluation: name -> index of the evaluation sets.

    Returns:
        An `Overlap` for each set and source that have clips in common.
    """
    overlaps = []
    for evaluation_name, held_out in evaluation.items():
        for train_name, index in train.items():
            by_audio = index.lookup_audio(held_out.audio_hash)
            matches = np.where(by_audio >= 0, by_audio, index.lookup_ids(held_out.id_hash))
            (records,) = np.nonzero(matches >= 0)
            if len(records):
                overlaps.append(Overlap(evaluation_name, train_name, records, matches[records], by_audio[records] >= 0))
    return overlaps


def _describe(
    overlaps: Sequence[Overlap], train: Mapping[str, PathAndSplit], evaluation: Mapping[str, PathAndSplit]
) -> str:
    lines, shown = [], 0
    for overlap in overlaps:
        path, split = evaluation[overlap.evaluation]
        train_path, train_split = train[overlap.train]
        lines.append(
            f"  config.data.evaluation.{overlap.evaluation} ({path}, {split}) and config.data.train.{overlap.train} "
            f"({train_path}, {train_split}) have {len(overlap.train_records)} in common:"
        )
        records, train_records = open_split(path, split), open_split(train_path, train_split)
        pairs = zip(overlap.evaluation_records, overlap.train_records, strict=True)
        for number, train_number in itertools.islice(pairs, SHOWN_PAIRS - shown):
            record, train_record = records[number], train_records[train_number]
            name, train_name = f"{record.source}/{record.id}", f"{train_record.source}/{train_record.id}"
            lines.append(f"    {name}" if name == train_name else f"    {name} has the samples of {train_name}")
            shown += 1
    rest = _count(overlaps) - shown
    return "\n".join(lines + ([f"    ... and {rest} more"] if rest else []))


def _count(overlaps: Sequence[Overlap]) -> int:
    return sum(len(overlap.train_records) for overlap in overlaps)


def _exclude_options(evaluation: Mapping[str, PathAndSplit]) -> str:
    return " ".join(f"--exclude {path}:{split}" for path, split in dict.fromkeys(evaluation.values()))
