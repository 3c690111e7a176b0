"""Named data sets as builders of TensorFlow Datasets, for whoever knows those; `slap prepare` does the same.

The data sets that are known by name.
"""

import difflib
import os
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

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
from slap_jax.data.preparation.dataset_writer import information, record_features
from slap_jax.data.preparation.prepare import dataset_identity, prepare


class SlapDatasetBuilder(FileReaderBuilder, skip_registration=True):
    """One named data set, read from the files as their publisher lays them out.

    It is in no registry, because TFDS has data sets of the same names and other contents: see `dataset_builder`.
    """

    code_path = None  # beside the code TFDS would look for checksums of downloads

    def __init__(self, dataset: PublishedDataset, data_dir: str | os.PathLike[str]):
        """Reads the metadata, if the data set is prepared.

        Args:
            dataset: opened.
            data_dir: receives `NAME/VERSION/`.
        """
        vars(self)["name"] = dataset.name  # of the class, in builders of one data set each
        self.VERSION = tfds.core.Version(dataset.version)
        self.MANUAL_DOWNLOAD_INSTRUCTIONS = f"Get it from {dataset.homepage}, laid out as\n{dataset.layout}"
        self._dataset = dataset
        super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    def download_and_prepare(self, **settings: Any) -> None:
        """Writes the records; nothing is downloaded, and a second call with unchanged files writes nothing.

        Args:
            **settings: keyword arguments of `slap_jax.data.preparation.prepare.prepare`.
        """
        self._download_and_prepare(None, None, **settings)
        self.info.read_from_directory(self.data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, features=record_features(), **information(dataset_identity(self._dataset))
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None, **settings: Any) -> None:
        prepare(self._dataset, self._data_dir_root, **settings)


def dataset_builder(
    name: str, manual_dir: str | os.PathLike[str], data_dir: str | os.PathLike[str], **options: Any
) -> SlapDatasetBuilder:
    """Returns the TFDS builder of a named data set.

    Args:
        name: as `slap prepare --dataset` takes it.
        manual_dir: the folder as its publisher lays it out.
        data_dir: receives `NAME/VERSION/`.
        **options: of the data set.

    Raises:
        LayoutError: no such data set, option or folder.
    """
    return SlapDatasetBuilder(open_dataset(name, Path(manual_dir), **options), data_dir)


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
