"""Sets results beside published figures, and says for each of those why it may not compare with ours."""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slap_jax.evaluation.published import FINE_TUNED, IN_TRAINING, UNKNOWN, ZERO_SHOT, Published, figures

# kind -> its title, and metric -> heading, in the order of the columns.
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
# Kinds of ours that have the published figures of another kind.
_PUBLISHED_AS = {"classification": "probe"}
_NOT_PERCENT = ("t2a_medr", "a2t_medr")


class ComparisonError(ValueError):
    """A file that holds no results; the message says what was expected."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One row: a model measured here, or a published one.

    Attributes:
        model: name.
        ours: measured by these results.
        values: metric -> value, in percent but for ranks.
        intervals: metric -> ends of the 95 % interval.
        clips: number of clips, None where unknown.
        how: prompt, classifier or decoding.
        setting: what the model had seen of the data.
        source: file, or publication and how it was read.
        notes: of ours what is unusual; of others why they may not compare.
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
    """A set and a kind of evaluation: a title, the metrics that some line has (key -> heading), and lines."""

    title: str
    metrics: Mapping[str, str]
    lines: Sequence[Line]


def read_results(paths: Iterable[str | os.PathLike[str]]) -> dict[str, dict[str, Any]]:
    """Reads what `slap evaluate` wrote: file -> results.

    Raises:
        ComparisonError: a file that is not there, no JSON, or holds no results.
    """
    found = {}
    for path in map(Path, paths):
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ComparisonError(f"{path} cannot be read ({error}); give a file that `slap evaluate` wrote") from error
        if not isinstance(results, dict) or not any(kind in results for kind in KINDS):
            raise ComparisonError(f"{path} holds no results; give a file that `slap evaluate` wrote")
        found[str(path)] = results
    return found


def compare(files: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """Makes a section of every set that some file has results of.

    Args:
        files: from `read_results`.
    """
    published = list(figures())
    sections = []
    for kind, (title, metrics) in KINDS.items():
        names = dict.fromkeys(set_name(kind, key) for results in files.values() for key in results.get(kind, {}))
        for name in names:
            ours = [
                (_ours(file, results, kind, name, entry, metrics), entry)
                for file, results in files.items()
                for key, entry in results.get(kind, {}).items()
                if set_name(kind, key) == name
            ]
            others = _published(kind, name, published, ours, metrics)
            lines = [*(line for line, _ in ours), *others]
            used = {metric: head for metric, head in metrics.items() if any(metric in line.values for line in lines)}
            sections.append(Section(f"{name}, {title}", used, lines))
    return sections


def set_name(kind: str, key: str) -> str:
    """The set of an entry of the results, whose key may say which prompts or which probe too."""
    if kind == "probe":
        return re.sub("_(linear|knn)_(global|dense)$", "", key)
    return key.removesuffix("_ensemble") if kind.startswith("zero_shot") else key


def missing_sets(files: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What suites could not evaluate: "set, kind" -> why, of all files."""
    return {name: why for results in files.values() for name, why in results.get("missing", {}).items()}


def _ours(
    file: str, results: Mapping[str, Any], kind: str, name: str, entry: Mapping[str, Any], metrics: Mapping[str, str]
) -> Line:
    model = results.get("model", {})
    title = " ".join(
        str(part)
        for part in (
            Path(str(model.get("path", file))).name,
            f"step {model['step']}" if model.get("step") is not None else "",
            f"({model['model_id']})" if "model_id" in model else "",
        )
        if part
    )
    intervals = {}
    for metric in metrics:
        ends = entry.get(
            f"{metric}_interval", entry.get("interval") if metric in ("accuracy", "map", "auroc") else None
        )
        if metric in entry and ends:
            intervals[metric] = (ends[0] * _scale(metric), ends[1] * _scale(metric))
    return Line(
        model=title,
        ours=True,
        values={metric: entry[metric] * _scale(metric) for metric in metrics if metric in entry},
        intervals=intervals,
        clips=_clips(entry),
        how=_how(kind, entry),
        setting=FINE_TUNED if kind == "classification" else setting(model, name),
        source=file,
        notes=_own_notes(entry),
    )


def _scale(metric: str) -> float:
    return 1.0 if metric in _NOT_PERCENT else 100.0


def _clips(entry: Mapping[str, Any]) -> int | None:
    return entry.get("n_clips", entry.get("n"))


def _how(kind: str, entry: Mapping[str, Any]) -> str:
    if kind == "probe":
        return f"{entry.get('classifier', '?')} on {entry.get('features', '?')} features"
    if kind == "captioning":
        return ", ".join(f"{name} {value}" for name, value in entry.get("decoding", {}).items())
    return str(entry.get("template", ""))


def setting(model: Mapping[str, Any], name: str) -> str:
    """What a model of ours had seen of a set: as the results say, or by the data that its run trained on."""
    if model.get("setting"):
        return str(model["setting"])
    trained_on = model.get("trained_on")
    if trained_on is None:
        return UNKNOWN
    dataset = name.removesuffix("_all")
    return IN_TRAINING if any(str(source).startswith(dataset) for source in trained_on) else ZERO_SHOT


def _own_notes(entry: Mapping[str, Any]) -> list[str]:
    notes = []
    size, published = entry.get("set_size"), entry.get("n_published")
    if published and size != published:
        notes.append(f"{size:,} of the {published:,} published clips")
    classes, published = entry.get("n_classes"), entry.get("n_classes_published")
    if published and classes != published:
        notes.append(f"{classes} of the {published} classes")
    if entry.get("tokeniser") == "words":
        notes.append("captions split at spaces, without Java: not the field's tokeniser")
    if entry.get("n_captions_cut"):
        notes.append(f"{entry['n_captions_cut']} captions were cut at {entry['text']['cut_at_tokens']} tokens")
    if entry.get("crop", "none") != "none":
        notes.append(f"clips were cropped: {entry['crop']}")
    return notes


def _published(
    kind: str,
    name: str,
    published: Sequence[Published],
    ours: Sequence[tuple[Line, Mapping[str, Any]]],
    metrics: Mapping[str, str],
) -> list[Line]:
    """A line for each system, with all of its metrics on this set; those first that have least against them."""
    # Others have one prompt; where we have one too, that is the line to compare with, and not our ensemble's.
    fixed = [(line, entry) for line, entry in ours if not str(entry.get("template", "")).startswith("ensemble")]
    ours, lines = fixed or ours, []
    groups: dict[tuple[str, str, str, str, int | None, str], dict[str, float]] = {}
    for figure in published:
        if (figure.kind, figure.set) == (_PUBLISHED_AS.get(kind, kind), name) and figure.metric in metrics:
            key = (figure.model, figure.setting, figure.source, figure.read, figure.n, figure.template)
            groups.setdefault(key, {})[figure.metric] = figure.value
    for (model, seen, source, read, n, template), values in groups.items():
        notes = [note for line, entry in ours for note in _differences(kind, seen, n, template, read, line, entry)]
        lines.append(
            Line(model, False, values, {}, n, template, seen, f"{source} [{read}]", list(dict.fromkeys(notes)))
        )
    return sorted(lines, key=lambda line: len(line.notes))


def _differences(
    kind: str, seen: str, n: int | None, template: str, read: str, line: Line, entry: Mapping[str, Any]
) -> Iterator[str]:
    """Why a published figure may not compare with one of ours."""
    if kind == "probe":
        yield "whole network fine-tuned; ours: frozen features" if seen == FINE_TUNED else "another way of probing"
    elif UNKNOWN in (seen, line.setting):
        yield "what one of both was trained on is not stated"
    elif seen != line.setting:
        yield f"{seen}; ours: {line.setting}"
    if n is None:
        yield "number of clips not stated"
    elif line.clips != n:
        yield f"on {n:,} clips; ours: {line.clips:,}" if line.clips else f"on {n:,} clips"
    if entry.get("n_published") and entry.get("set_size") != entry["n_published"]:
        yield "ours lacks clips of the set"
    if entry.get("n_classes_published") and entry.get("n_classes") != entry["n_classes_published"]:
        yield "ours lacks classes of the set"
    if kind.startswith("zero_shot"):
        if not template:
            yield "prompt not stated"
        elif template != entry.get("template"):
            yield f"another prompt; ours: “{entry.get('template')}”"
    if kind == "captioning" and entry.get("tokeniser") == "words":
        yield "the field's tokeniser; ours: without Java"
    if read == "recalled":
        yield "recalled from memory: check before quoting"
