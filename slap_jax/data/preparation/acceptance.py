"""Whether a collection is prepared: how many clips may be rejected, and whose records may be replaced."""

import math
from collections.abc import Mapping
from pathlib import Path

from slap_jax.data.collections.entries import EXCLUDED
from slap_jax.data.index import open_index
from slap_jax.data.preparation.duplicates import HashSet
from slap_jax.data.records import ALL, RecordsError
from slap_jax.errors import UserError

# Default limit of rejections: a fraction of the clips, but at least a number; of a small collection, a larger fraction.
ALLOWED_REJECTION_FRACTION = 0.01
MIN_ALLOWED_REJECTIONS = 10
MAX_ALLOWED_REJECTION_FRACTION = 0.25
SAME_SOURCE = 0.5  # fraction of the published clips that an update of the same source still lists


class PrepareError(UserError, ValueError):
    """The collection is not prepared: it has no clips, lost too many of them, or would replace another one."""


def rejection_limit(clips: int, max_rejected: int | None = None) -> int:
    """Returns how many clips of a collection may be rejected.

    By default 1 %, but at least 10, and never more than a quarter.

    Args:
        clips: number of good and rejected clips, without those excluded on purpose.
        max_rejected: limit set by the user, if any.
    """
    if max_rejected is not None:
        return max_rejected
    limit = max(MIN_ALLOWED_REJECTIONS, math.ceil(ALLOWED_REJECTION_FRACTION * clips))
    return min(limit, math.floor(MAX_ALLOWED_REJECTION_FRACTION * clips))


def check_rejections(rejected: Mapping[str, int], listed: int, max_rejected: int | None, file: Path) -> None:
    """Raises `PrepareError` if no clip is left, or if more were rejected than allowed.

    Args:
        rejected: reason -> number of clips, those excluded on purpose included.
        listed: number of all clips, good, rejected and excluded.
        max_rejected: limit set by the user, if any.
        file: where the rejections are listed, for the message.
    """
    count = sum(number for reason, number in rejected.items() if not reason.startswith(EXCLUDED))
    total = listed - (sum(rejected.values()) - count)
    reasons = ", ".join(f"{number} {reason}" for reason, number in rejected.items())
    if not listed:
        raise PrepareError("the collection has no clips; expected at least one")
    if count == total:
        raise PrepareError(f"all {listed} clips were left out ({reasons}); see {file}")
    allowed = rejection_limit(total, max_rejected)
    if count > allowed:
        raise PrepareError(
            f"{count} of {total} clips were rejected ({reasons}), more than max_rejected={allowed}; see {file} and "
            f"correct them, or accept them with --max-rejected {count} (no clip is decoded again)"
        )


def refuse_other_source(published: Path, listed: HashSet, name: str, advice: str) -> None:
    """Raises `PrepareError` if a dataset holds the records of another source than the one to prepare.

    An update of the same source still lists most of the clips that were prepared before. Damaged records may always be
    replaced.

    Args:
        published: directory of the dataset.
        listed: `hash_id` of the clips of the source to prepare.
        name: name of that source, for the message.
        advice: what to do, for the message.
    """
    try:
        ids = open_index(published, ALL).id_hash
    except RecordsError:
        return
    kept = int(listed.contains(ids).sum())
    if kept < SAME_SOURCE * len(ids):
        raise PrepareError(
            f"{published} holds {len(ids):,} clips of another source ({kept:,} of them are in {name}); {advice}"
        )
