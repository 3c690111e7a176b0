"""Classification on the page: scores with chance, each class, which classes are confused, and wrong clips to hear."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slap_jax.drawing.theme import PRINT, drawing
from slap_jax.report import figures

Values = dict[str, Any]

Result = tuple[str, str, Mapping[str, Any]]  # kind, set, scores

_KINDS = {  # kind of results -> its metric
    "classification": ("accuracy", "map"),
    "zero_shot": ("accuracy",),
    "zero_shot_multi_label": ("map",),
}
_MOST_CELLS = 30  # classes of a confusion matrix; with more, the most frequent confusions are listed
_MOST_CLASSES = 30  # rows of the table; the worst
_MOST_CONFUSIONS = 20
_MOST_MISTAKES = 6


def classification_sets(
    evaluation: Mapping[str, Any], kinds: Sequence[str]
) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Returns (kind, set, scores) of the results that are classifications."""
    return [
        (kind, name, scores)
        for kind in kinds
        for name, scores in evaluation.get(kind, {}).items()
        if isinstance(scores, Mapping) and any(isinstance(scores.get(metric), float) for metric in _KINDS[kind])
    ]


def class_scores(sets: Sequence[Result], clips_of: Mapping[str, Sequence[Any]], directory: Path) -> list[Values]:
    """Returns the results of sets for the template, and draws their confusion matrices as PNG in `directory`.

    Args:
        sets: result of `classification_sets`.
        clips_of: evaluation set -> its clips, for those that are on this machine.
        directory: where pictures are written.
    """
    return [_set(kind, name, scores, clips_of, directory) for kind, name, scores in sets]


def _set(
    kind: str, name: str, scores: Mapping[str, Any], clips_of: Mapping[str, Sequence[Any]], directory: Path
) -> Values:
    metric = next(metric for metric in _KINDS[kind] if metric in scores)
    classes = scores.get("classes")  # older versions wrote their number
    return {
        "name": name,
        "label": scores.get("label", ""),
        "metric": {"accuracy": "accuracy", "map": "mAP"}[metric],
        "value": scores[metric],
        "interval": scores.get("interval"),
        "chance": scores.get("chance"),
        "majority": scores.get("majority"),
        "n": scores.get("n"),
        "n_classes": scores.get("n_classes", len(classes) if isinstance(classes, list) else classes),
        "template": scores.get("template", ""),
        "per_class": _per_class(scores),
        "confusion": _confusion(kind, name, scores, directory),
        "n_mistakes": scores.get("n_mistakes"),
        "mistakes": _mistakes(scores, clips_of.get(name)),
    }


def _per_class(scores: Mapping[str, Any]) -> Values | None:
    """Returns the rows of the table of classes, the worst first, and how many rows are left out."""
    classes = scores.get("per_class")
    if not classes:
        return None
    metric = "average_precision" if "map" in scores else "accuracy"
    known = [(name, one) for name, one in classes.items() if one["n"]]
    known.sort(key=lambda item: item[1][metric])
    return {
        "metric": metric.replace("_", " "),
        "rows": [
            {"name": name, "n": one["n"], "value": one[metric], "precision": one.get("precision")}
            for name, one in known[:_MOST_CLASSES]
        ],
        "left_out": max(0, len(known) - _MOST_CLASSES),
        "absent": [name for name, one in classes.items() if not one["n"]],
    }


def _confusion(kind: str, name: str, scores: Mapping[str, Any], directory: Path) -> Values | None:
    """Returns the confusion matrix, or the most frequent confusions of many classes."""
    confusion: Mapping[str, Mapping[str, int]] = scores.get("confusion", {})
    if not confusion:
        return None
    predicted = [one for one in scores["classes"] if one in confusion or any(one in row for row in confusion.values())]
    true = list(confusion)
    pairs = [(n, one, other) for one, row in confusion.items() for other, n in row.items() if other != one]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    frequent = [{"true": one, "predicted": other, "n": n} for n, one, other in pairs[:_MOST_CONFUSIONS]]
    if max(len(true), len(predicted)) > _MOST_CELLS:
        return {"rows": [], "predicted": [], "frequent": frequent}
    counts = np.array([[confusion[one].get(other, 0) for other in predicted] for one in true])
    with drawing(PRINT):
        file = directory / f"confusion_{kind}_{figures.file_name(name)}.png"
        figures.confusion_figure(counts, true, predicted).savefig(file, dpi=160)
    return {
        "predicted": predicted,
        "rows": [
            {
                "true": one,
                "n": int(row.sum()),
                "cells": [
                    {"n": int(n), "share": float(n / max(1, row.sum())), "predicted": other, "right": one == other}
                    for other, n in zip(predicted, row, strict=True)
                ],
            }
            for one, row in zip(true, counts, strict=True)
        ],
        "frequent": frequent,
    }


def _mistakes(scores: Mapping[str, Any], clips: Sequence[Any] | None) -> list[Values]:
    """Returns wrong clips: as `slap evaluate` sampled them, in turn from different classes."""
    mistakes = scores.get("mistakes", [])
    if clips is None:
        return []
    by_class: dict[str, list[Values]] = {}
    for mistake in mistakes:
        by_class.setdefault(mistake["true"], []).append(mistake)
    turns = max((len(group) for group in by_class.values()), default=0)
    order = [group[turn] for turn in range(turns) for group in by_class.values() if turn < len(group)]
    playable = []
    for mistake in order:
        if len(playable) == _MOST_MISTAKES:
            break
        if mistake["clip"] < len(clips) and (clip := clips[mistake["clip"]]).id == mistake["id"]:
            playable.append({**mistake, "clip": clip})
    return playable
