"""The data sets that are known by name."""

import difflib
import os
from pathlib import Path
from typing import Any

from slap_jax.data.builders.audiocaps import AudioCaps, AudioCaps2
from slap_jax.data.builders.clotho import Clotho
from slap_jax.data.builders.macs import Macs
from slap_jax.data.builders.published import LayoutError, PublishedDataset
from slap_jax.data.builders.tacos import Tacos
from slap_jax.data.builders.wavcaps import WavCaps

DATASETS: dict[str, type[PublishedDataset]] = {
    dataset.name: dataset
    for dataset in (
        AudioCaps,
        AudioCaps2,
        Clotho,
        Macs,
        Tacos,
        WavCaps,
    )
}


def open_dataset(name: str, root: str | os.PathLike[str], **options: Any) -> PublishedDataset:
    """Opens a named data set as its publisher lays it out.

    Args:
        name: one of `DATASETS`.
        root: its folder.
        **options: of the data set; docs/datasets.md lists them.

    Raises:
        LayoutError: an unknown name or option, or a folder that does not exist.
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
        hint = f"did you mean {close[0]!r}? known" if close else "known"
        raise LayoutError(f"there is no data set {name!r}; {hint} are {', '.join(sorted(DATASETS))}")
    return DATASETS[name](Path(root), **options)
