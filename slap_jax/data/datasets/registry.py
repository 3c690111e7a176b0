"""The published datasets by name."""

import difflib
import os
from pathlib import Path
from typing import Any

from slap_jax.data.collections.published import LayoutError, PublishedDataset
from slap_jax.data.datasets.audiocaps import AudioCaps, AudioCaps2
from slap_jax.data.datasets.audioset import AudioSet
from slap_jax.data.datasets.clotho import Clotho
from slap_jax.data.datasets.crema_d import CremaD
from slap_jax.data.datasets.esc50 import Esc50
from slap_jax.data.datasets.fsd50k import Fsd50k
from slap_jax.data.datasets.gtzan import Gtzan
from slap_jax.data.datasets.macs import Macs
from slap_jax.data.datasets.nsynth import NSynth
from slap_jax.data.datasets.ravdess import Ravdess
from slap_jax.data.datasets.speech_commands import SpeechCommands
from slap_jax.data.datasets.tacos import Tacos
from slap_jax.data.datasets.urbansound8k import UrbanSound8K
from slap_jax.data.datasets.vggsound import VggSound
from slap_jax.data.datasets.wavcaps import WavCaps

# In the order of docs/datasets.md: captions first, then labels.
DATASETS: dict[str, type[PublishedDataset]] = {
    dataset.name: dataset
    for dataset in (
        AudioCaps,
        AudioCaps2,
        Clotho,
        WavCaps,
        Macs,
        Tacos,
        AudioSet,
        Fsd50k,
        VggSound,
        Esc50,
        UrbanSound8K,
        Gtzan,
        NSynth,
        SpeechCommands,
        CremaD,
        Ravdess,
    )
}


def open_dataset(name: str, root: str | os.PathLike[str], **options: Any) -> PublishedDataset:
    """Opens a published dataset in a local folder; reads no file.

    Args:
        name: one of `DATASETS`.
        root: the folder, laid out as its publisher distributes it.
        **options: options of the dataset; docs/datasets.md lists them.

    Raises:
        LayoutError: the name or an option is unknown, or the folder does not exist.
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise LayoutError(f"unknown dataset {name!r}; {hint}known datasets: {', '.join(sorted(DATASETS))}")
    return DATASETS[name](Path(root), **options)
