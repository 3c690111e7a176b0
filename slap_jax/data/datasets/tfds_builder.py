"""Published datasets as TensorFlow Datasets builders, an alternative to `slap prepare`."""

import os
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from slap_jax.data.collections.published import PublishedDataset
from slap_jax.data.datasets.registry import open_dataset
from slap_jax.data.preparation.dataset_writer import info_fields, record_features
from slap_jax.data.preparation.prepare import dataset_identity, prepare


class SlapDatasetBuilder(FileReaderBuilder, skip_registration=True):
    """The builder of one published dataset.

    It is not registered with TFDS, which has other datasets of the same names: see `dataset_builder`.
    """

    code_path = None  # TFDS would look for checksums of downloads next to the code

    def __init__(self, dataset: PublishedDataset, data_dir: str | os.PathLike[str]):
        """Reads the metadata if the dataset is already prepared.

        Args:
            dataset: an opened dataset.
            data_dir: receives `NAME/VERSION/`.
        """
        vars(self)["name"] = dataset.name  # a class attribute in TFDS
        self.VERSION = tfds.core.Version(dataset.version)
        self.MANUAL_DOWNLOAD_INSTRUCTIONS = f"Get it from {dataset.homepage}, laid out as\n{dataset.layout}"
        self._dataset = dataset
        super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    def download_and_prepare(self, **settings: Any) -> None:
        """Writes the records. Nothing is downloaded, and a second call with unchanged files writes nothing.

        Args:
            **settings: keyword arguments of `slap_jax.data.preparation.prepare.prepare`.
        """
        self._download_and_prepare(None, None, **settings)
        self.info.read_from_directory(self.data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, features=record_features(), **info_fields(dataset_identity(self._dataset))
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None, **settings: Any) -> None:
        prepare(self._dataset, self._data_dir_root, **settings)


def dataset_builder(
    name: str, manual_dir: str | os.PathLike[str], data_dir: str | os.PathLike[str], **options: Any
) -> SlapDatasetBuilder:
    """Returns the TFDS builder of a published dataset.

    Args:
        name: as for `slap prepare --dataset`.
        manual_dir: the folder, laid out as its publisher distributes it.
        data_dir: receives `NAME/VERSION/`.
        **options: options of the dataset.

    Raises:
        LayoutError: the name or an option is unknown, or the folder does not exist.
    """
    return SlapDatasetBuilder(open_dataset(name, Path(manual_dir), **options), data_dir)
