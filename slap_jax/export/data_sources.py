"""Which data a run was trained on, and their licences, as the run's config and the data themselves name them."""

import collections
import dataclasses
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from slap_jax.data.records import dataset_directory, open_split

_LOOKED_AT = 500  # records of a split whose licences are read


@dataclasses.dataclass(frozen=True)
class DataSource:
    """One source of the training mixture.

    Attributes:
        name: in `config.data.train`.
        split: of the data set.
        weight: in the mixture, relative to the other sources.
        clips: of the split; None where the data are not on this machine.
        licence: of the data set as a whole; "" where it states none.
        clip_licences: licence -> share of the records looked at; "" counts those without one.
    """

    name: str
    split: str
    weight: float
    clips: int | None
    licence: str
    clip_licences: dict[str, float]


def data_sources(config: ConfigDict) -> list[DataSource]:
    """Reads what the training sources of a run's config say about themselves; data that are gone stay in the list."""
    return [_source(name, settings) for name, settings in config.data.train.items()]


def _source(name: str, settings: ConfigDict) -> DataSource:
    clips, licence, shares = None, "", {}
    try:
        records = open_split(settings.path, settings.split)
        clips = len(records)
        licence = _dataset_licence(dataset_directory(settings.path))
        step = -(-clips // _LOOKED_AT)
        found = collections.Counter(records[index].licence.strip() for index in range(0, clips, step))
        total = sum(found.values())
        shares = {text: count / total for text, count in found.most_common()}
    except (ValueError, OSError):  # RecordsError among them: the data need not be where the model is exported
        pass
    return DataSource(name, settings.split, float(settings.get("weight", 1.0)), clips, licence, shares)


def _dataset_licence(directory: Path) -> str:
    import tensorflow_datasets as tfds

    info: Any = tfds.builder_from_directory(directory).info
    return str(getattr(info.redistribution_info, "license", "") or "")
