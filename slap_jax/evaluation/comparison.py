"""Compares results with published figures, and states for each figure why it may not be comparable.

The figures are in `published.json`: each has a source that was read, with the URL of the exact version. Values are in
percent (CIDEr-D, SPICE and mAP times 100).
"""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slap_jax.data.audio import SAMPLE_RATE
from slap_jax.errors import UserError

# What a model had seen of the data of an evaluation set when it was measured.
ZERO_SHOT = "zero-shot"  # nothing
IN_TRAINING = "in training"  # clips of the same collection were part of the training data
FINE_TUNED = "fine-tuned"  # the last training was on the training split of the set
UNKNOWN = "not stated"

_FIGURES = Path(__file__).with_name("published.json")

# kind -> title, and metric -> heading, in the order of the columns.
_RETRIEVAL = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "map10": "mAP@10", "medr": "medR"}
KINDS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "retrieval": (
        "retrieval",
        {f"{way}_{metric}": f"{way.upper()} {title}" for way in ("t2a", "a2t") for metric, title in _RETRIEVAL.items()},
    ),
    "zero_shot": ("zero-shot classification", {"accuracy": "top-1"}),
    "zero_shot_multi_label": ("zero-shot classification, several labels", {"map": "mAP"}),
    "captioning": (
        "captioning",
        {
            "cider_d": "CIDEr-D",
            "spice": "SPICE",
            "spider": "SPIDEr",
            "meteor": "METEOR",
            "rouge_l": "ROUGE-L",
            "bleu_1": "BLEU-1",
            "bleu_4": "BLEU-4",
            "fense": "FENSE",
        },
    ),
    "probe": ("probes", {"accuracy": "top-1", "map": "mAP"}),
    "classification": ("fine-tuned classification", {"accuracy": "top-1", "map": "mAP"}),
    "frames": ("text against time", {"auroc": "segment AUROC"}),
}

# Kinds of our results whose published figures have another kind.
_PUBLISHED_AS = {"classification": "probe"}
_NOT_PERCENT = ("t2a_medr", "a2t_medr")


class ComparisonError(UserError, ValueError):
    """A file without results."""


@dataclasses.dataclass(frozen=True)
class Published:
    """The published figures of a model on a set.

    Attributes:
        model: its name.
        kind: kind of the measure, as in the results.
        set: name, as in the results.
        setting: how much of the data the model had seen: one of the four constants above.
        source: where the figures were read.
        url: URL of the exact version that was read.
        values: metric -> value, in percent.
        n: number of clips; None if the source does not state it.
        template: prompt; "" if the source does not state it, or there is none.
    """

    model: str
    kind: str
    set: str
    setting: str
    source: str
    url: str
    values: Mapping[str, float]
    n: int | None = None
    template: str = ""


@dataclasses.dataclass(frozen=True)
class Line:
    """One row: a model measured here, or a published one.

    Attributes:
        model: its name.
        ours: whether it was measured here.
        values: metric -> value, in percent except for ranks.
        intervals: metric -> ends of the 95 % interval.
        clips: number of clips; None if unknown.
        how: prompt, classifier or decoding.
        setting: how much of the data the model had seen.
        source: file, or publication.
        notes: peculiarities of our result, or reasons why a published one may not be comparable.
    """

    model: str
    ours: bool
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    clips: int | None
    how: str
    setting: str
    source: str
    notes: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Section:
    """A set and a kind of evaluation: a title, the metrics that occur (key -> heading), and lines."""

    title: str
    metrics: Mapping[str, str]
    lines: Sequence[Line]


def read_results(paths: Iterable[str | os.PathLike[str]]) -> dict[str, dict[str, Any]]:
    """Reads files of `slap evaluate`, `slap probe` or `slap score`.

    Returns:
        File -> results.

    Raises:
        ComparisonError: a file is missing, is not JSON, has no results, or results of another form.
    """
    files = {}
    for path in map(Path, paths):
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ComparisonError(f"{path} cannot be read ({error}); give a file that `slap evaluate` wrote") from error
        if not isinstance(results, dict) or not any(kind in results for kind in KINDS):
            raise ComparisonError(f"{path} holds no results; give a file that `slap evaluate` wrote")
        fault = _fault(results)
        if fault:
            raise ComparisonError(f"{path}: {fault}, so it is damaged; give a file that `slap evaluate` wrote")
        files[str(path)] = results
    return files


def _fault(results: Mapping[str, Any]) -> str:
    """Returns what is wrong with the form of results; "" if nothing is."""
    for kind in ("model", "missing", *KINDS):
        if not isinstance(results.get(kind, {}), dict):
            return f"{kind} is not an object"
    for kind, (_, metrics) in KINDS.items():
        for name, entry in results.get(kind, {}).items():
            if not isinstance(entry, dict):
                return f"{kind}/{name} is not an object"
            for metric in metrics:
                if not isinstance(entry.get(metric, 0.0), (int, float)):
                    return f"{kind}/{name}/{metric} is {entry[metric]!r}, not a number"
    return ""


@functools.cache
def figures() -> tuple[Published, ...]:
    """Reads the published figures."""
    content = json.loads(_FIGURES.read_text(encoding="utf-8"))
    read = []
    for figure in content["figures"]:
        source = content["sources"][figure["source"]]
        read.append(Published(**{**figure, "source": source["title"], "url": source["url"]}))
    return tuple(read)


def compare(files: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """Makes a section for each set and kind that a file has results of.

    Args:
        files: result of `read_results`.
    """
    sections = []
    for kind, (title, metrics) in KINDS.items():
        names = dict.fromkeys(set_name(kind, key) for results in files.values() for key in results.get(kind, {}))
        for name in names:
            ours = [
                (_our_line(file, results, kind, entry, metrics), entry)
                for file, results in files.items()
                for key, entry in results.get(kind, {}).items()
                if set_name(kind, key) == name
            ]
            lines = [*(line for line, _ in ours), *_published_lines(kind, name, ours, metrics)]
            used = {metric: head for metric, head in metrics.items() if any(metric in line.values for line in lines)}
            sections.append(Section(f"{name}, {title}", used, lines))
    return sections


def set_name(kind: str, key: str) -> str:
    """Returns the set of an entry of the results, whose key may also name the prompts or the probe."""
    if kind == "probe":
        return re.sub("_(linear|knn)_(global|dense)$", "", key)
    return key.removesuffix("_ensemble") if kind.startswith("zero_shot") else key


def missing_sets(files: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns "set, kind" -> reason for the sets of all files that could not be evaluated."""
    return {name: reason for results in files.values() for name, reason in results.get("missing", {}).items()}


def setting(model: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """Returns what a model of ours had seen of a set: as `--setting` states, or by the collections of the records.

    Only a shared collection is evidence. If none is shared, the clips may still have been trained on under another
    name, so the setting is not stated.

    Args:
        model: `model` of the results; `trained_on` are collections.
        entry: entry of the set; `sources` are the collections of its clips.
    """
    if model.get("setting"):
        return str(model["setting"])
    return IN_TRAINING if set(model.get("trained_on") or ()) & set(entry.get("sources") or ()) else UNKNOWN


def _our_line(
    file: str, results: Mapping[str, Any], kind: str, entry: Mapping[str, Any], metrics: Mapping[str, str]
) -> Line:
    model = results.get("model", {})
    title = [model.get("name") or Path(str(model.get("path", file))).name]
    if model.get("step") is not None:
        title.append(f"step {model['step']}")
    if "model_id" in model:
        title.append(f"({model['model_id']})")
    intervals = {}
    for metric in metrics:
        unnamed = entry.get("interval") if metric in ("accuracy", "map", "auroc") else None
        ends = entry.get(f"{metric}_interval", unnamed)
        if metric in entry and ends:
            intervals[metric] = (ends[0] * _scale(metric), ends[1] * _scale(metric))
    return Line(
        model=" ".join(title),
        ours=True,
        values={metric: entry[metric] * _scale(metric) for metric in metrics if metric in entry},
        intervals=intervals,
        clips=entry.get("n_clips", entry.get("n")),
        how=_how(kind, entry),
        setting=FINE_TUNED if kind == "classification" else setting(model, entry),
        source=file,
        notes=_our_notes(model, entry),
    )


def _scale(metric: str) -> float:
    return 1.0 if metric in _NOT_PERCENT else 100.0


def _how(kind: str, entry: Mapping[str, Any]) -> str:
    if kind == "probe":
        return f"{entry.get('classifier', '?')} on {entry.get('features', '?')} features"
    if kind == "captioning":
        return ", ".join(f"{name} {value}" for name, value in entry.get("decoding", {}).items())
    return str(entry.get("template", ""))


def _our_notes(model: Mapping[str, Any], entry: Mapping[str, Any]) -> list[str]:
    notes = []
    rate = model.get("sample_rate", SAMPLE_RATE)
    if rate > SAMPLE_RATE:
        notes.append(f"prepared data hold {SAMPLE_RATE / 1_000:g} kHz; the model was made for {rate / 1_000:g} kHz")
    size, published = entry.get("set_size"), entry.get("n_published")
    if published and size != published:
        notes.append(f"{size:,} of the {published:,} published clips")
    classes, published = entry.get("n_classes"), entry.get("n_classes_published")
    if published and classes != published:
        notes.append(f"{classes} of the {published} classes")
    if entry.get("tokeniser") == "words":
        notes.append("captions split at spaces, without Java: not the usual tokeniser")
    if entry.get("n_captions_cut"):
        notes.append(f"{entry['n_captions_cut']} captions were truncated at {entry['text']['cut_at_tokens']} tokens")
    if entry.get("crop", "none") != "none":
        notes.append(f"clips were cropped: {entry['crop']}")
    return notes


def _published_lines(
    kind: str, name: str, ours: Sequence[tuple[Line, Mapping[str, Any]]], metrics: Mapping[str, str]
) -> list[Line]:
    """Returns a line for each published model on this set; the most comparable ones come first."""
    # Published results have one prompt; if ours include one with a single prompt, compare with that, not the ensemble.
    single = [(line, entry) for line, entry in ours if not str(entry.get("template", "")).startswith("ensemble")]
    lines = []
    for figure in figures():
        values = {metric: value for metric, value in figure.values.items() if metric in metrics}
        if (figure.kind, figure.set) != (_PUBLISHED_AS.get(kind, kind), name) or not values:
            continue
        notes = [note for line, entry in single or ours for note in _differences(kind, figure, line, entry)]
        source = f"{figure.source} ({figure.url})"
        lines.append(
            Line(
                model=figure.model,
                ours=False,
                values=values,
                intervals={},
                clips=figure.n,
                how=figure.template,
                setting=figure.setting,
                source=source,
                notes=list(dict.fromkeys(notes)),
            )
        )
    return sorted(lines, key=lambda line: len(line.notes))


def _differences(kind: str, figure: Published, line: Line, entry: Mapping[str, Any]) -> Iterator[str]:
    """Yields the reasons why a published figure may not be comparable with one of ours."""
    if kind == "probe":
        is_fine_tuned = figure.setting == FINE_TUNED
        yield "whole network fine-tuned; ours: frozen features" if is_fine_tuned else "another probe protocol"
    elif kind == "classification" and figure.setting != FINE_TUNED:
        yield "probe on frozen features; ours: fine-tuned"
    elif UNKNOWN in (figure.setting, line.setting):
        yield "training data of one of the two not stated"
    elif figure.setting != line.setting:
        yield f"{figure.setting}; ours: {line.setting}"
    if figure.n is None:
        yield "number of clips not stated"
    elif line.clips != figure.n:
        yield f"on {figure.n:,} clips; ours: {line.clips:,}" if line.clips else f"on {figure.n:,} clips"
    if entry.get("n_published") and entry.get("set_size") != entry["n_published"]:
        yield "ours lacks clips of the set"
    if entry.get("n_classes_published") and entry.get("n_classes") != entry["n_classes_published"]:
        yield "ours lacks classes of the set"
    if kind.startswith("zero_shot"):
        if not figure.template:
            yield "prompt not stated"
        elif figure.template != entry.get("template"):
            yield f"another prompt; ours: “{entry.get('template')}”"
    if kind == "captioning" and entry.get("tokeniser") == "words":
        yield "the usual tokeniser; ours: without Java"
