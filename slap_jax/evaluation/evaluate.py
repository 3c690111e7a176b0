"""Evaluates a model on prepared splits: embeds, scores, and says beside every number how it was measured."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from slap_jax.atomic import write_text_atomic
from slap_jax.config.defaults import source
from slap_jax.config.rules import ConfigError
from slap_jax.data.records import parse_dir_split
from slap_jax.evaluation.captioning import Captions, captioning
from slap_jax.evaluation.embeddings import Embeds, Progress, clip_vectors, text_vectors
from slap_jax.evaluation.frame_scores import frame_scores
from slap_jax.evaluation.probe import probe
from slap_jax.evaluation.retrieval import retrieval
from slap_jax.evaluation.task import EvaluationTask, load_tasks, make_task
from slap_jax.evaluation.zero_shot import zero_shot, zero_shot_multi_label
from slap_jax.inference.prompts import class_embeddings

__all__ = ["EvaluationTask", "evaluate", "load_tasks", "make_task", "parse_data_argument", "scalars", "write_results"]

CROP = "none"  # full clips, always


def evaluate(
    embedder: Embeds,
    params: Mapping[str, Any],
    tasks: Iterable[EvaluationTask],
    *,
    seed: int = 0,
    resamples: int = 1_000,
    captions: Captions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Embeds every clip and caption once and scores them.

    Args:
        embedder: of the model; keep it between calls, it holds the compiled programs.
        params: of the model (`params["model"]` of a run).
        tasks: from `load_tasks`, or of a suite.
        seed: of the bootstrap.
        resamples: of the bootstrap, over clips.
        captions: writes captions of waveforms; needed by tasks of captioning.
        progress: called while clips are embedded.

    Returns:
        JSON: `{"retrieval": {set: ...}, "zero_shot": {set: ...}}`, and `zero_shot_multi_label`, `captioning`, `probe`
        and `frames` where a task asks for them. Every entry has the numbers with their intervals and `split`,
        `split_fingerprint`, `crop`, `set_size`, `n_published`, `text`; classification also `template`, `label`,
        `classes`. A set of fewer than two captioned clips has no retrieval, one without a label no zero-shot entry.

    Raises:
        CaptioningError, ProbeError: what a task needs is not there.
    """
    results: dict[str, Any] = {"retrieval": {}, "zero_shot": {}}
    bootstrap = {"seed": seed, "resamples": resamples}
    for task in tasks:
        found: dict[str, dict[str, Any]] = {}
        embedded = {"retrieval", "zero_shot", "zero_shot_multi_label"}.intersection(task.kinds)
        if embedded:
            (audio,) = clip_vectors([lambda waveforms: embedder.audio(params, waveforms)], task, progress)
            if "retrieval" in task.kinds:
                found["retrieval"] = {task.name: _retrieval(embedder, params, task, audio, bootstrap)}
            for kind in sorted(embedded - {"retrieval"}):
                found[kind] = _zero_shot(embedder, params, task, audio, bootstrap)
        if "captioning" in task.kinds:
            found["captioning"] = {task.name: captioning(task, captions, progress=progress, **bootstrap)}
        if "probe" in task.kinds:
            found["probe"] = probe(embedder, params, task, progress=progress, **bootstrap)
        if "frames" in task.kinds:
            found["frames"] = {task.name: frame_scores(embedder, params, task, progress=progress, **bootstrap)}
        for kind, entries in found.items():
            about = _about(task, audio_alone=kind == "probe")
            results.setdefault(kind, {}).update({name: {**scores, **about} for name, scores in entries.items()})
    return results


def _retrieval(
    embedder: Embeds, params: Mapping[str, Any], task: EvaluationTask, audio: np.ndarray, bootstrap: Mapping[str, int]
) -> dict[str, Any]:
    captioned, owner = np.unique(task.owner, return_inverse=True)
    text = text_vectors(embedder, params, task, task.captions)
    cut = sum(task.tokenizer.length(caption) > task.max_tokens for caption in task.captions)
    return {**retrieval(audio[captioned], text, owner, task.captions, **bootstrap), "n_captions_cut": cut}


def _zero_shot(
    embedder: Embeds, params: Mapping[str, Any], task: EvaluationTask, audio: np.ndarray, bootstrap: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """An entry for each template: the first has the name of the set, an ensemble `_ensemble` behind it."""
    labels = task.labels
    assert labels is not None  # `make_task` sees to it
    entries = {}
    for template in labels.templates:
        prompts = labels.prompts(template)
        classes = class_embeddings(text_vectors(embedder, params, task, prompts), len(labels.classes))
        if labels.positives is not None:
            scores = zero_shot_multi_label(audio, classes, labels.positives, **bootstrap)
        else:
            scores = zero_shot(audio, classes, labels.truth, task.parts or None, **bootstrap)
        about = {"template": template, "label": labels.key, "classes": list(labels.classes)}
        if labels.words:
            about["words"] = dict(labels.words)
        name = task.name if template == labels.templates[0] else f"{task.name}_{template.partition('_')[0]}"
        entries[name] = {**scores, **about}
    return entries


def _about(task: EvaluationTask, audio_alone: bool) -> dict[str, Any]:
    """How a task was measured, for the record."""
    about = {
        "split": task.split,
        "split_fingerprint": task.fingerprint,
        "crop": CROP,
        "set_size": len(task.clips),
        "n_published": task.n_published,
    }
    if task.n_classes_published is not None:
        about["n_classes_published"] = task.n_classes_published
    if audio_alone:
        return about
    return {**about, "text": {"changes": "none", "cut_at_tokens": task.max_tokens}}


def scalars(results: Mapping[str, Any]) -> dict[str, float]:
    """Flattens results to `retrieval/SET/t2a_r1` -> number, for curves; intervals, counts and texts are left out."""
    return {
        f"{kind}/{name}/{metric}": value
        for kind, sets in results.items()
        for name, scores in sets.items()
        if isinstance(scores, Mapping)
        for metric, value in scores.items()
        if isinstance(value, float)
    }


def parse_data_argument(text: str) -> tuple[str, ConfigDict]:
    """Reads `name=path:split` or `name=path:split:label` of the command line.

    Raises:
        ConfigError: another form.
        UrlError: the path is a URL.
    """
    name, _, data = text.partition("=")
    rest, last = parse_dir_split(data)
    path, split = parse_dir_split(rest)
    if split:
        label = last
    else:
        path, split, label = rest, last, ""
    if not (name and path and split):
        raise ConfigError(f"--data {text!r} is not NAME=PATH:SPLIT or NAME=PATH:SPLIT:LABEL")
    return name, source(path, split, label=label)


def write_results(results: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes results as JSON, whole or not at all."""
    write_text_atomic(path, json.dumps(results, indent=2) + "\n")
