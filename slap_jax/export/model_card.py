"""The model card: a README.md in an export with the model's use, training data, metrics, limits and licence.

The data sources and their licences come from the run's config and from the prepared data themselves.
"""

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from slap_jax.atomic import write_text_atomic
from slap_jax.checkpoints.model_dir import CARD, Export, ExportError
from slap_jax.data.records import dataset_directory, open_split, read_dataset_info
from slap_jax.export.card_metrics import eval_results, metrics_section, read_metrics, replace_section

_TEMPLATE = Path(__file__).with_name("templates") / "model_card.md"
_SHOWN_LICENCES = 8  # of each source
_SAMPLED_RECORDS = 500  # of a split, to read their licences
_TAGS = ["audio", "audio-text-retrieval", "feature-extraction"]
_CLASSIFIER_TAGS = ["audio", "audio-classification"]
# Licences that the Hugging Face hub knows by this identifier; others are "other" with their name.
_HUB_LICENCES = (
    *("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0"),
    *("cc-by-nc-nd-4.0", "cc-by-3.0", "cc-by-sa-3.0", "bsd", "bsd-2-clause", "bsd-3-clause", "gpl-2.0", "gpl-3.0"),
    *("agpl-3.0", "lgpl-2.1", "lgpl-3.0", "mpl-2.0", "isc", "unlicense", "wtfpl", "zlib", "openrail", "unknown"),
)


@dataclasses.dataclass(frozen=True)
class DataSource:
    """One source of the training mixture.

    Attributes:
        name: name in `config.data.train`.
        split: split of the dataset.
        weight: weight in the mixture, relative to the other sources.
        clips: number of clips in the split; None if the data are not on this machine.
        licence: licence of the dataset as a whole; "" if it states none.
        clip_licences: licence -> fraction of the sampled records; "" counts those without a licence.
    """

    name: str
    split: str
    weight: float
    clips: int | None
    licence: str
    clip_licences: dict[str, float]


def write_card(
    export: Export,
    directory: str | os.PathLike[str],
    *,
    sources: Sequence[DataSource] | None,
    evaluation: Mapping[str, Any],
    licence: str = "",
    started_from: Sequence[str] = (),
) -> Path:
    """Writes the card of an export directory. Its metadata follow the Hugging Face hub's `model-index`.

    Args:
        export: the model.
        directory: the export directory.
        sources: sources of the training data; None if unknown.
        evaluation: contents of the run's `evaluation.json`; empty if it was not evaluated.
        licence: licence of the weights; "" if not stated.
        started_from: names of the models whose parameters training started from.
    """
    from huggingface_hub import ModelCard, ModelCardData

    metrics = read_metrics(evaluation)
    objectives = export.params.get("objectives", {})
    head = export.config.objectives.classification if "head" in objectives.get("classification", {}) else None
    data = ModelCardData(
        license=_licence_data(licence)["license"],
        license_name=_licence_data(licence).get("license_name"),
        library_name="slap_jax",
        pipeline_tag="feature-extraction" if head is None else "audio-classification",
        tags=_TAGS if head is None else _CLASSIFIER_TAGS,
        model_name="SLAP" if metrics else None,
        eval_results=eval_results(metrics) or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        version=version("slap-jax"),
        captions="captioning" in objectives,
        pairs="contrastive" in objectives,
        label="" if head is None else head.label,
        classes=() if head is None else tuple(head.classes),
        multi_label=head is not None and head.multi_label,
        config=export.config,
        step=export.step,
        sources=None if sources is None else [_cells(source) for source in sources],
        started_from=started_from,
        metrics_section=metrics_section(metrics),
        max_seconds=export.config.data.get("max_seconds"),
        licence_section=_licence_section(licence),
    )
    path = Path(directory) / CARD
    write_text_atomic(path, str(card))
    return path


def change_licence(directory: str | os.PathLike[str], licence: str) -> Path:
    """Replaces the licence of the weights in the card of an export directory and keeps everything else.

    Raises:
        ExportError: the metadata at the head of the card cannot be parsed.
    """
    card = read_card(Path(directory) / CARD)
    for name in ("license", "license_name"):
        card.data.pop(name, None)
    for name, value in _licence_data(licence).items():
        card.data[name] = value
    card.text = replace_section(card.text, "Licence", _licence_section(licence))
    write_text_atomic(Path(directory) / CARD, str(card))
    return Path(directory) / CARD


def change_metrics(path: Path, evaluation: Mapping[str, Any]) -> None:
    """Replaces the metrics in a card, in its metadata and in its text, and keeps everything else.

    Args:
        path: the card.
        evaluation: contents of the run's `evaluation.json`.

    Raises:
        ExportError: the metadata at the head of the card cannot be parsed.
    """
    card, metrics = read_card(path), read_metrics(evaluation)
    card.data.eval_results = eval_results(metrics) or None
    card.data.model_name = "SLAP" if metrics else None
    card.text = replace_section(card.text, "Metrics", metrics_section(metrics))
    write_text_atomic(path, str(card))


def read_card(path: Path) -> Any:
    """Reads a card: its `data` and its `text`.

    Raises:
        ExportError: the metadata at its head cannot be parsed.
    """
    import yaml
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(path)
    except (ValueError, yaml.YAMLError) as error:
        raise ExportError(
            f"{path}: the YAML block at its head cannot be parsed ({error}); correct it, or delete the card"
        ) from None


def data_sources(config: ConfigDict) -> list[DataSource]:
    """Describes the training sources of a run's config by what the data say about themselves.

    Sources whose data are gone stay in the list.
    """
    return [_data_source(name, settings) for name, settings in config.data.train.items()]


def _data_source(name: str, settings: ConfigDict) -> DataSource:
    clips, licence, fractions = None, "", {}
    try:
        records = open_split(settings.path, settings.split)
        clips = len(records)
        licence = _dataset_licence(dataset_directory(settings.path))
        step = -(-clips // _SAMPLED_RECORDS)
        counts = collections.Counter(records[index].licence.strip() for index in range(0, clips, step))
        fractions = {text: count / counts.total() for text, count in counts.most_common()}
    except (ValueError, OSError):  # RecordsError among them: the data need not be on the machine that exports
        pass
    return DataSource(name, settings.split, float(settings.get("weight", 1.0)), clips, licence, fractions)


def _dataset_licence(directory: Path) -> str:
    return str(read_dataset_info(directory).get("redistributionInfo", {}).get("license", ""))


def _cells(source: DataSource) -> list[str]:
    """Returns a row of the table of sources."""
    if source.clips is None:
        cells = ["unknown: not on the machine that exported", "unknown", "unknown"]
    else:
        licences = [f"{text or 'none stated'} ({fraction:.0%})" for text, fraction in source.clip_licences.items()]
        more = [f"and {len(licences) - _SHOWN_LICENCES} more"] if len(licences) > _SHOWN_LICENCES else []
        cells = [str(source.clips), source.licence or "none stated", ", ".join(licences[:_SHOWN_LICENCES] + more)]
    values = [source.name, source.split, f"{source.weight:g}", *cells]
    return [value.replace("|", "/").replace("\n", " ") for value in values]


def _licence_data(licence: str) -> dict[str, str]:
    """Returns the metadata of a licence; the hub takes "other" with a name for licences that it does not know."""
    name = licence.lower() or "unknown"
    return {"license": name} if name in _HUB_LICENCES else {"license": "other", "license_name": licence}


def _licence_section(licence: str) -> str:
    stated = f"Weights: {licence}." if licence else "No licence was stated for the weights."
    return f"## Licence\n\n{stated} The licences of the training data above may restrict the use of the weights."
