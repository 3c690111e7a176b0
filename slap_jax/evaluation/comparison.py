"""Sets results beside published figures, and says for each of those why it may not compare with ours.

Figures that others published, each with its source and how it was read. Data only; `comparison` uses it.

Values are in percent (CIDEr-D, SPICE and mAP times 100). `read` says how sure a value is:

- "paper": in that system's own paper, README or code;
- "digest": in a public summary of the paper's full text (github.com/nanless/audio-paper-digest-blog, 2026-04-29);
- "table of X": in a table of another paper, X, which may have measured anew or copied;
- "index": on a page that collects results (wizwand.com);
- "recalled": from memory of the paper. Check before quoting.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slap_jax.errors import UserError

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


class ComparisonError(UserError, ValueError):
    """A file that holds no results; the message says what was expected."""


def setting(model: Mapping[str, Any], name: str) -> str:
    """What a model of ours had seen of a set: as the results say, or by the data that its run trained on."""
    if model.get("setting"):
        return str(model["setting"])
    trained_on = model.get("trained_on")
    if trained_on is None:
        return UNKNOWN
    dataset = name.removesuffix("_all")
    return IN_TRAINING if any(str(source).startswith(dataset) for source in trained_on) else ZERO_SHOT


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


@dataclasses.dataclass(frozen=True)
class Published:
    """One number.

    Attributes:
        model: that was measured.
        kind: of evaluation, as in the results.
        set: as in the results.
        metric: as in the results.
        value: in percent.
        setting: one of the four above.
        source: where it was published.
        read: see the module's docstring.
        n: clips it was measured on, None where the source does not say.
        template: prompt, "" where the source does not say or there is none.
    """

    model: str
    kind: str
    set: str
    metric: str
    value: float
    setting: str
    source: str
    read: str
    n: int | None = None
    template: str = ""


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


# What a model had seen of the evaluation set's data when the value was measured.
ZERO_SHOT = "zero-shot"  # nothing of this data set
IN_TRAINING = "in training"  # its training split was a part of the pretraining data
FINE_TUNED = "fine-tuned"  # trained on its training split at last
UNKNOWN = "not stated"
_SLAP = "SLAP, arXiv 2601.12594"
_SLAP_1, _SLAP_2, _SLAP_3 = f"{_SLAP}, table 1", f"{_SLAP}, table 2", f"{_SLAP}, table 3"
_WAVLINK = "table of WavLink"
_GLAP = "table of GLAP"

# model, setting, AudioCaps T2A and A2T, Clotho T2A and A2T, source, read. R@1 in percent.
_RETRIEVAL_FIGURES: Sequence[tuple[str, str, float | None, float | None, float | None, float | None, str, str]] = (
    ("SLAP", ZERO_SHOT, 35.1, 44.8, 18.9, 23.5, _SLAP_1, "digest"),
    ("SLAP", FINE_TUNED, 47.5, 63.4, 27.2, 36.8, _SLAP_1, "digest"),
    ("WavCaps", ZERO_SHOT, 28.6, 40.2, 16.5, 20.0, _SLAP_1, "digest"),
    ("LAION-CLAP", FINE_TUNED, 36.2, 45.0, 17.2, 24.2, _SLAP_1, "digest"),
    ("M2D2-CLAP", FINE_TUNED, 41.9, 59.2, 20.0, 24.9, _SLAP_1, "digest"),
    ("CED-LE", FINE_TUNED, 45.6, 60.7, 25.0, 30.9, f"{_SLAP_1}; ML-CLAP, arXiv 2406.07012", "digest"),
    ("LAION-CLAP", IN_TRAINING, 36.1, 46.8, 16.1, 22.7, "WavLink", _WAVLINK),
    ("LAION-CLAP, fusion", IN_TRAINING, 35.1, 45.8, 18.2, 25.7, "LAION-CLAP, arXiv 2211.06687", "recalled"),
    ("WavCaps HTSAT", IN_TRAINING, 39.7, 51.7, 20.2, 26.5, "GLAP", _GLAP),
    ("WavCaps HTSAT-BERT", FINE_TUNED, 42.2, 54.6, 19.7, 26.9, "WavCaps, arXiv 2303.17395", "recalled"),
    ("FLAP", IN_TRAINING, 41.5, 53.0, 20.3, 25.5, "FLAP", "index"),
    ("Cacophony", IN_TRAINING, 41.0, 55.3, 20.2, 26.5, "Cacophony", "paper"),
    ("MGA-CLAP", IN_TRAINING, 41.8, 54.4, 20.4, 25.3, "WavLink", _WAVLINK),
    ("MLCLAP", IN_TRAINING, 40.7, 50.1, 18.8, 21.1, "GLAP", _GLAP),
    ("GLAP", IN_TRAINING, 41.7, 54.4, 19.4, 21.8, "GLAP", "table of a reader's notes"),
    ("WavLink S", FINE_TUNED, 44.5, 54.3, 21.2, 25.3, "WavLink", "table of a reader's notes"),
    ("WavLink L", FINE_TUNED, 46.7, 60.0, 22.4, 27.4, "WavLink", "table of a reader's notes"),
    ("PE-AV S", UNKNOWN, 41.8, None, 23.9, None, "facebookresearch/perception_models", "paper"),
    ("PE-AV B", UNKNOWN, 42.7, None, 23.8, None, "facebookresearch/perception_models", "paper"),
    ("PE-AV L", UNKNOWN, 45.8, None, 23.0, None, "facebookresearch/perception_models", "paper"),
    ("AuroLA-3B", FINE_TUNED, 44.9, 60.5, 25.6, 34.9, "AuroLA, arXiv 2602.18010, its README", "paper"),
    ("AuroLA-7B", FINE_TUNED, 46.8, 64.0, 26.7, 36.5, "AuroLA, arXiv 2602.18010, its README", "paper"),
    ("AuroLA-7B", ZERO_SHOT, 43.3, 53.0, 26.0, 34.4, "AuroLA, arXiv 2602.18010, its README", "paper"),
)
_ZERO_SHOT_SETS = ("esc50", "urbansound8k", "vggsound", "gtzan", "crema_d", "ravdess")

# model, setting, then the sets above, source, read. Top-1 in percent.
_ZERO_SHOT: Sequence[
    tuple[str, str, float | None, float | None, float | None, float | None, float | None, float | None, str, str]
] = (
    ("SLAP", ZERO_SHOT, 88.6, 81.6, None, 56.8, 28.1, 26.4, _SLAP_2, "digest"),
    ("SLAP, then WavCaps", ZERO_SHOT, 95.5, 83.5, None, 80.5, 32.2, 29.8, _SLAP_2, "digest"),
    ("M2D2-CLAP", ZERO_SHOT, 94.3, 82.9, None, 79.3, 28.6, None, _SLAP_2, "digest"),
    ("LAION-CLAP", ZERO_SHOT, 89.1, 73.2, 29.1, None, None, None, "WavLink", _WAVLINK),
    ("LAION-CLAP, fusion", ZERO_SHOT, 91.0, 77.0, 46.2, None, None, None, "LAION-CLAP, arXiv 2211.06687", "recalled"),
    ("MS-CLAP 2023", ZERO_SHOT, 93.9, 82.3, None, None, 30.0, 31.5, "MS-CLAP, arXiv 2309.05767", "recalled"),
    ("MS-CLAP 2023", ZERO_SHOT, None, None, None, 58.4, None, None, "GLAP", _GLAP),
    ("WavCaps HTSAT", ZERO_SHOT, 94.8, 80.6, 29.6, None, None, None, "WavCaps, arXiv 2303.17395", "recalled"),
    ("Cacophony", ZERO_SHOT, 93.4, 77.1, 27.1, None, None, None, "Cacophony, its README", "paper"),
    ("MGA-CLAP", ZERO_SHOT, 94.9, 83.7, 31.8, None, None, None, "WavLink", _WAVLINK),
    ("ReCLAP", ZERO_SHOT, 92.8, 95.2, 29.2, None, None, None, "WavLink", _WAVLINK),
    ("GLAP", ZERO_SHOT, 88.8, 78.9, None, 69.6, None, None, "GLAP", "table of a reader's notes"),
    ("WavLink S", ZERO_SHOT, 80.3, 75.0, 31.8, None, None, None, "WavLink", "table of a reader's notes"),
    ("WavLink L", ZERO_SHOT, 83.0, 74.5, 31.7, None, None, None, "WavLink", "table of a reader's notes"),
    # Its clips and prompt are those of EVAR's code, by the same authors.
    ("M2D-CLAP 2024", ZERO_SHOT, None, None, None, 75.2, None, None, "M2D-CLAP 2024, evaluated in EVAR", "paper"),
)
_N_OF: Mapping[tuple[str, str], int] = {("Cacophony", "vggsound"): 12_722, ("M2D-CLAP 2024", "gtzan"): 290}
_TEMPLATE_OF: Mapping[tuple[str, str], str] = {
    ("WavCaps HTSAT", "esc50"): "{} can be heard",
    ("WavCaps HTSAT", "urbansound8k"): "{}",
    ("WavCaps HTSAT", "vggsound"): "{} can be heard",
    ("M2D-CLAP 2024", "gtzan"): "{} music can be heard",
    ("GLAP", "esc50"): "The sound of {} can be heard.",
    ("GLAP", "gtzan"): "The music in the style of {}.",
    ("MS-CLAP 2023", "esc50"): "this is the sound of {}",
    ("LAION-CLAP, fusion", "esc50"): "This is a sound of {}.",
    ("Cacophony", "esc50"): "This is a sound of {}",
}
_OTHERS: Sequence[Published] = (
    Published("LAION-CLAP, music", "zero_shot", "gtzan_all", "accuracy", 71.0, ZERO_SHOT,
              "LAION-AI/CLAP, its README", "paper", 1_000, "This audio is a {} song."),
    Published("GLAP", "zero_shot", "speech_commands", "accuracy", 95.8, ZERO_SHOT, "GLAP", "table of a reader's notes",
              None, "{}"),
    Published("M2D-CLAP, in EVAR", "zero_shot", "nsynth", "accuracy", 31.9, ZERO_SHOT,
              "nttcslab/eval-audio-repr, a comment in zeroshot.py", "paper", 4_096,
              "the musical instrument sound of {} can be heard"),
    Published("MS-CLAP 2023", "zero_shot_multi_label", "fsd50k", "map", 48.6, ZERO_SHOT, "MS-CLAP, arXiv 2309.05767",
              "recalled"),
    Published("MGA-CLAP", "zero_shot_multi_label", "fsd50k", "map", 54.5, ZERO_SHOT, "WavLink", _WAVLINK),
    Published("GLAP", "zero_shot_multi_label", "fsd50k", "map", 40.9, ZERO_SHOT, "GLAP", "recalled"),
    Published("SLAP", "captioning", "audiocaps", "cider_d", 75.1, FINE_TUNED, _SLAP_3, "digest"),
    Published("SLAP", "captioning", "audiocaps", "spice", 18.1, FINE_TUNED, _SLAP_3, "digest"),
    Published("SLAP", "captioning", "clotho", "cider_d", 43.7, FINE_TUNED, _SLAP_3, "digest"),
    Published("SLAP", "captioning", "clotho", "spice", 13.1, FINE_TUNED, _SLAP_3, "digest"),
    Published("M2D2-CLAP", "captioning", "audiocaps", "cider_d", 72.4, FINE_TUNED, _SLAP_3, "digest"),
    Published("M2D2-CLAP", "captioning", "audiocaps", "spice", 17.6, FINE_TUNED, _SLAP_3, "digest"),
    Published("M2D2-CLAP", "captioning", "clotho", "cider_d", 43.5, FINE_TUNED, _SLAP_3, "digest"),
    Published("M2D2-CLAP", "captioning", "clotho", "spice", 12.4, FINE_TUNED, _SLAP_3, "digest"),
    Published("Cacophony", "captioning", "audiocaps", "cider_d", 72.8, FINE_TUNED, _SLAP_3, "digest"),
    Published("Cacophony", "captioning", "audiocaps", "spice", 16.8, FINE_TUNED, _SLAP_3, "digest"),
    Published("Cacophony", "captioning", "clotho", "cider_d", 41.5, FINE_TUNED, _SLAP_3, "digest"),
    Published("Cacophony", "captioning", "clotho", "spice", 10.6, FINE_TUNED, _SLAP_3, "digest"),
    Published("WavCaps HTSAT-BART", "captioning", "audiocaps", "cider_d", 78.7, FINE_TUNED,
              "WavCaps, arXiv 2303.17395", "recalled"),
    Published("WavCaps HTSAT-BART", "captioning", "clotho", "cider_d", 48.8, FINE_TUNED, "WavCaps, arXiv 2303.17395",
              "recalled"),
    Published("SLAP", "probe", "esc50", "accuracy", 98.2, FINE_TUNED, f"{_SLAP}, table 4", "index"),
    Published("SLAP", "probe", "speech_commands", "accuracy", 98.5, FINE_TUNED, f"{_SLAP}, table 4", "index"),
    Published("AudioMAE B", "probe", "esc50", "accuracy", 94.1, FINE_TUNED, "AudioMAE", "recalled"),
    Published("BEATs iter3", "probe", "esc50", "accuracy", 95.6, FINE_TUNED, "BEATs", "recalled"),
    Published("SupMAM-CLAP", "probe", "esc50", "accuracy", 97.6, FINE_TUNED, "MAM-CLAP, arXiv 2401.15953", "index"),
    Published("AudioMAE B", "probe", "speech_commands", "accuracy", 98.3, FINE_TUNED, "AudioMAE", "recalled"),
    Published("BEATs iter3", "probe", "speech_commands", "accuracy", 98.3, FINE_TUNED, "BEATs", "recalled"),
    Published("SupMAM-CLAP", "probe", "speech_commands", "accuracy", 98.7, FINE_TUNED, "MAM-CLAP, arXiv 2401.15953",
              "index"),
    Published("AudioMAE B", "probe", "audioset", "map", 37.0, FINE_TUNED, "AudioMAE, AS-20K", "recalled"),
    Published("BEATs iter3", "probe", "audioset", "map", 38.3, FINE_TUNED, "BEATs, AS-20K", "recalled"),
    Published("EAT B", "probe", "audioset", "map", 41.3, FINE_TUNED, "EAT, AS-20K", "paper"),
    Published("EAT L", "probe", "audioset", "map", 42.0, FINE_TUNED, "EAT, AS-20K", "paper"),
    Published("SupMAM-CLAP", "probe", "audioset", "map", 38.6, FINE_TUNED, "MAM-CLAP, arXiv 2401.15953, AS-20K",
              "index"),
)  # fmt: skip


def figures() -> Iterator[Published]:
    """All figures, those of the same set and metric in the order of the tables above."""
    for model, setting, *values, source, read in _RETRIEVAL_FIGURES:
        columns = [(name, metric) for name in ("audiocaps", "clotho") for metric in ("t2a_r1", "a2t_r1")]
        for (name, metric), value in zip(columns, values, strict=True):
            if value is not None:
                yield Published(model, "retrieval", name, metric, float(value), setting, source, read)
    for model, setting, *values, source, read in _ZERO_SHOT:
        for name, value in zip(_ZERO_SHOT_SETS, values, strict=True):
            if value is not None:
                about = (_N_OF.get((model, name)), _TEMPLATE_OF.get((model, name), ""))
                yield Published(model, "zero_shot", name, "accuracy", float(value), setting, source, read, *about)
    yield from _OTHERS
