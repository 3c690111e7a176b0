"""The data sets that are known by name."""

import difflib
import os
from pathlib import Path
from typing import Any

from slap_jax.data.builders.audiocaps import AudioCaps, AudioCaps2
from slap_jax.data.builders.audioset import AudioSet
from slap_jax.data.builders.clotho import Clotho
from slap_jax.data.builders.crema_d import CremaD
from slap_jax.data.builders.esc50 import Esc50
from slap_jax.data.builders.fsd50k import Fsd50k
from slap_jax.data.builders.gtzan import Gtzan
from slap_jax.data.builders.macs import Macs
from slap_jax.data.builders.nsynth import NSynth
from slap_jax.data.builders.published import LayoutError, PublishedDataset
from slap_jax.data.builders.ravdess import Ravdess
from slap_jax.data.builders.speech_commands import SpeechCommands
from slap_jax.data.builders.tacos import Tacos
from slap_jax.data.builders.urbansound8k import UrbanSound8K
from slap_jax.data.builders.vggsound import VggSound
from slap_jax.data.builders.wavcaps import WavCaps

DATASETS: dict[str, type[PublishedDataset]] = {
    dataset.name: dataset
    for dataset in (
        AudioCaps,
        AudioCaps2,
        AudioSet,
        Clotho,
        CremaD,
        Esc50,
        Fsd50k,
        Gtzan,
        Macs,
        NSynth,
        Ravdess,
        SpeechCommands,
        Tacos,
        UrbanSound8K,
        VggSound,
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
