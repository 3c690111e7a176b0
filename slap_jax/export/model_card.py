"""The model card: a README.md beside an export that says what the model is, what it was trained on, how good it is.

Which data a run was trained on, and their licences, as the run's config and the data themselves name them.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from slap_jax.atomic import write_text_atomic
from slap_jax.checkpoints.model_dir import CARD, Export
from slap_jax.data.records import dataset_directory, open_split

_MOST_LICENCES = 8  # named for each source
_WHERE = "\n\nTemplates, splits and fingerprints: `evaluation.json` of the run."
_NUMBERS = ("n", "n_clips", "n_texts", "n_captions")  # how many were scored, by whichever name the results have


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


def write_card(
    export: Export,
    directory: str | os.PathLike[str],
    *,
    sources: Sequence[DataSource] | None,
    evaluation: Mapping[str, Any],
    licence: str = "",
    started_from: Sequence[str] = (),
) -> Path:
    """Writes the card of an export directory.

    Args:
        export: the model.
        directory: of the export.
        sources: of the training data; None where they are not known.
        evaluation: contents of the run's `evaluation.json`; empty if it was not evaluated.
        licence: of the weights; "" if whoever exports states none.
        started_from: names of the models whose parameters training started from.
    """
    sections = [
        _head(licence),
        _use(export),
        _sizes(export.config, export.step),
        _data(sources, started_from),
        _metrics(evaluation),
        _limits(export.config),
        _licence(licence),
    ]
    return _write(Path(directory) / CARD, "\n\n".join(sections) + "\n")


def change_licence(directory: str | os.PathLike[str], licence: str) -> Path:
    """States another licence of the weights in the card of an export directory, and leaves the rest as it is."""
    path = Path(directory) / CARD
    text = re.sub(
        r"^license: .*", lambda _: _licence_line(licence), path.read_text(encoding="utf-8"), count=1, flags=re.M
    )
    start = text.find("## Licence\n")
    after = text.find("\n## ", start + 1) if start >= 0 else -1
    rest = text[after:] if after >= 0 else ""  # what somebody has added
    return _write(path, (text if start < 0 else text[:start]).rstrip() + f"\n\n{_licence(licence)}\n{rest}")


def _write(path: Path, text: str) -> Path:
    write_text_atomic(path, text)
    return path


def _head(licence: str) -> str:
    lines = [
        "---",
        _licence_line(licence),
        "library_name: slap_jax",
        "tags: [audio, audio-classification, audio-text-retrieval, feature-extraction]",
        "---",
    ]
    return "\n".join(lines) + "\n\n# A SLAP model: sound and text in one space"


def _use(export: Export) -> str:
    caption = '\nmodel.caption(["dog.wav"])' if "captioning" in export.params.get("objectives", {}) else ""
    return f"""Embeds sound of any duration and texts so that what belongs together lies close (language-audio
pretraining, arXiv 2601.12594). Exported by slap_jax {version("slap-jax")}.

```python
import slap_jax

model = slap_jax.load("DIRECTORY_OF_THIS_FILE")
audio = model.embed_audio(["dog.wav", "rain.mp3"])
text = model.embed_text(["a dog barks", "rain falls"])
model.similarity(audio, text)
model.classify(["dog.wav"], ["dog", "cat", "rain"]){caption}
```

`slap doctor DIRECTORY_OF_THIS_FILE` checks that the files are whole and compute here what they computed where they were
written."""


def _sizes(config: ConfigDict, step: int) -> str:
    model = config.model
    rows = [
        ("embedding", f"{model.embed_dim} dimensions"),
        ("audio tower", f"{model.audio_encoder.layers} layers of width {model.audio_encoder.width}"),
        ("text tower", f"{model.text_encoder.layers} layers of width {model.text_encoder.width}"),
        ("vocabulary", f"{model.vocab_size} tokens, texts of at most {config.data.max_caption_tokens}"),
        ("input", f"{config.audio.sample_rate} Hz mono, {config.audio.mels} mel bands; other rates are converted"),
        ("training steps", f"{step}"),
    ]
    return "## The model\n\n| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {text} |" for name, text in rows)


def _data(sources: Sequence[DataSource] | None, started_from: Sequence[str]) -> str:
    text = "## Training data\n\n"
    if sources is None:
        text += "Not recorded: the card was written from an export, without the run."
    else:
        text += "| source | split | weight | clips | licence of the set | licences of its clips |\n"
        text += "| --- | --- | --- | --- | --- | --- |\n" + "\n".join(map(_data_row, sources))
    for name in started_from:
        text += f"\n\nTraining started from the parameters of `{name}`, whose data and licence count too."
    return text


def _data_row(source: DataSource) -> str:
    if source.clips is None:
        cells = ["unknown: not on the machine that exported", "unknown", "unknown"]
    else:
        named = [f"{text or 'none stated'} ({share:.0%})" for text, share in source.clip_licences.items()]
        more = [f"and {len(named) - _MOST_LICENCES} more"] if len(named) > _MOST_LICENCES else []
        cells = [str(source.clips), source.licence or "none stated", ", ".join(named[:_MOST_LICENCES] + more)]
    values = [source.name, source.split, f"{source.weight:g}", *cells]
    return "| " + " | ".join(value.replace("|", "/").replace("\n", " ") for value in values) + " |"


def _metrics(evaluation: Mapping[str, Any]) -> str:
    rows = [row for kind, sets in evaluation.items() if isinstance(sets, Mapping) for row in _metric_rows(kind, sets)]
    if not rows:
        return "## Metrics\n\nThe run was not evaluated before it was exported; `slap evaluate` does it."
    head = "| task | set | metric | value | 95 % interval | N |\n| --- | --- | --- | --- | --- | --- |\n"
    return "## Metrics\n\n" + head + "\n".join(rows) + _WHERE


def _metric_rows(kind: str, sets: Mapping[str, Any]) -> Iterator[str]:
    for name, scores in sets.items():
        if not isinstance(scores, Mapping):
            continue
        number = next((scores[key] for key in _NUMBERS if key in scores), "")
        for metric, value in scores.items():
            if not isinstance(value, float) or "chance" in metric:
                continue
            interval = scores.get(f"{metric}_interval", scores.get("interval") if metric == "accuracy" else None)
            band = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
            yield f"| {kind} | {name} | {metric} | {value:.3f} | {band} | {number} |"


def _limits(config: ConfigDict) -> str:
    seconds = config.data.get("max_seconds")
    longest = f"clips of up to {seconds:g} s" if seconds else "clips of limited duration"
    return f"""## Limits

- Training saw {longest}; longer recordings are embedded in windows.
- It knows the sounds, words and language of its training data, and repeats their biases. Scores compare the labels or
  clips that were given with each other; none says that any of them is right.
- Captions, where the model writes them, can name sounds that are not there.
- It was not made to identify people, nor tested for decisions about them."""


def _licence_line(licence: str) -> str:
    return f"license: {licence.lower() or 'other'}"


def _licence(licence: str) -> str:
    stated = f"Weights: {licence}." if licence else "Whoever exported the model stated no licence for the weights."
    return f"## Licence\n\n{stated} The licences of the training data above may limit what the weights may be used for."


_LOOKED_AT = 500  # records of a split whose licences are read


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
