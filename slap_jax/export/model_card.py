"""The model card: a README.md in an export with the model's use, training data, metrics, limits and licence.

The data sources and their licences come from the run's config and from the prepared data themselves.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from slap_jax.atomic import write_text_atomic
from slap_jax.checkpoints.model_dir import CARD, Export, ExportError
from slap_jax.data.records import dataset_directory, open_split, read_dataset_info

_TEMPLATE = Path(__file__).with_name("templates") / "model_card.md"
_SHOWN_LICENCES = 8  # of each source
_SAMPLED_RECORDS = 500  # of a split, to read their licences
_COUNTS = ("n", "n_clips", "n_texts", "n_captions")  # the names that results have for the number of scored items
_TAGS = ["audio", "audio-classification", "audio-text-retrieval", "feature-extraction"]
# Kinds of results whose task has another name on the Hugging Face hub.
_HUB_TASKS = {
    "retrieval": "audio-text-retrieval",
    "zero_shot": "zero-shot-audio-classification",
    "zero_shot_multi_label": "zero-shot-audio-classification",
    "probe": "audio-classification",
    "classification": "audio-classification",
}


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


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number of `evaluation.json`.

    Attributes:
        kind: kind of evaluation, like "retrieval".
        set: name of the evaluation set.
        name: name of the metric.
        value: value of the metric.
        interval: ends of the 95 % interval, if there is one.
        count: number of scored items, "" if unknown.
    """

    kind: str
    set: str
    name: str
    value: float
    interval: tuple[float, float] | None
    count: int | str


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
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    metrics = _metrics(evaluation)
    data = ModelCardData(
        license=_licence_id(licence),
        library_name="slap_jax",
        tags=_TAGS,
        model_name="SLAP" if metrics else None,
        eval_results=[
            EvalResult(
                task_type=_HUB_TASKS.get(metric.kind, metric.kind),
                dataset_type=metric.set,
                dataset_name=metric.set,
                metric_type=metric.name,
                metric_value=metric.value,
            )
            for metric in metrics
        ]
        or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        version=version("slap-jax"),
        captions="captioning" in export.params.get("objectives", {}),
        config=export.config,
        step=export.step,
        sources=None if sources is None else [_cells(source) for source in sources],
        started_from=started_from,
        metrics=metrics,
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
    import yaml
    from huggingface_hub import ModelCard

    path = Path(directory) / CARD
    try:
        card = ModelCard.load(path)
    except (ValueError, yaml.YAMLError) as error:
        raise ExportError(
            f"{path}: the YAML block at its head cannot be parsed ({error}); correct it, or delete the card"
        ) from None
    card.data["license"] = _licence_id(licence)
    section = re.compile(r"^## Licence\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if section.search(card.text):
        card.text = section.sub(lambda match: _replace_section(match[0], licence), card.text, count=1)
    else:
        card.text = f"{card.text.rstrip()}\n\n{_licence_section(licence)}\n"
    write_text_atomic(path, str(card))
    return path


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


def _metrics(evaluation: Mapping[str, Any]) -> list[Metric]:
    metrics = []
    for kind, sets in evaluation.items():
        for name, scores in sets.items() if isinstance(sets, Mapping) else ():
            if not isinstance(scores, Mapping):
                continue
            count = next((scores[key] for key in _COUNTS if key in scores), "")
            for metric, value in scores.items():
                if isinstance(value, float) and "chance" not in metric:
                    ends = scores.get(f"{metric}_interval", scores.get("interval") if metric == "accuracy" else None)
                    metrics.append(Metric(kind, name, metric, value, tuple(ends) if ends else None, count))
    return metrics


def _licence_id(licence: str) -> str:
    return licence.lower() or "other"


def _licence_section(licence: str) -> str:
    stated = f"Weights: {licence}." if licence else "No licence was stated for the weights."
    return f"## Licence\n\n{stated} The licences of the training data above may restrict the use of the weights."


def _replace_section(old: str, licence: str) -> str:
    """Returns the new section with the blank lines that followed the old one."""
    return _licence_section(licence) + old[len(old.rstrip()) :]
