"""Clips that `slap prepare --exclude PATH:SPLIT` leaves out: those of prepared evaluation splits."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt64

from slap_jax.data.record_index import hash_id, open_index

REASON = "excluded_evaluation"


class ExclusionError(ValueError):
    """An `--exclude` that does not name a split of prepared data."""


@dataclasses.dataclass(frozen=True)
class ExcludedClips:
    """Clips that are told by their id, before anything is decoded, or by their audio.

    Attributes:
        ids: sorted `hash_id` of each.
        audio: sorted `hash_audio` of each.
    """

    ids: UInt64[np.ndarray, " n"]
    audio: UInt64[np.ndarray, " m"]

    def has_id(self, source: str, clip_id: str) -> bool:
        """Whether the clip of that collection and id is one of them."""
        return _contains(self.ids, hash_id(source, clip_id))

    def has_audio(self, audio_hash: int) -> bool:
        """Whether one of them has the samples of that `hash_audio`."""
        return _contains(self.audio, audio_hash)

    @functools.cached_property
    def digest(self) -> str:
        """Of what is left out: data prepared with another one are other data."""
        return hashlib.blake2b(self.ids.tobytes() + self.audio.tobytes(), digest_size=16).hexdigest()


def excluded_clips(splits: Sequence[str]) -> ExcludedClips:
    """Reads the indexes of splits.

    Args:
        splits: each "PATH:SPLIT", where SPLIT may join several like "val+test"; none excludes nothing.

    Raises:
        ExclusionError: another form.
        RecordsError: no prepared data there, no such split, or no index because an older version wrote the data.
    """
    indexes = []
    for text in splits:
        # No split holds a slash, so the colon of gs://bucket belongs to the path.
        found = re.fullmatch(r"(.+):([^:/]+)", text)
        if found is None:
            raise ExclusionError(f"--exclude {text!r} is not PATH:SPLIT of prepared data, like data/esc50:test")
        indexes.append(open_index(*found.groups()))
    none = np.empty(0, np.uint64)
    return ExcludedClips(
        ids=np.unique(np.concatenate([none, *(index.id_hash for index in indexes)])),
        audio=np.unique(np.concatenate([none, *(index.audio_hash for index in indexes)])),
    )


def _contains(ordered: UInt64[np.ndarray, " n"], value: int) -> bool:
    place = int(np.searchsorted(ordered, np.uint64(value)))
    return place < len(ordered) and int(ordered[place]) == value
