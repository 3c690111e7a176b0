"""Named data sets as builders of TensorFlow Datasets, for whoever knows those; `slap prepare` does the same."""

import os
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from slap_jax.data.builders.published import PublishedDataset
from slap_jax.data.builders.registry import open_dataset
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
