"""Evaluates a model on prepared splits: embeds, scores, and records how each number was measured."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from slap_jax.atomic import write_text_atomic
from slap_jax.config.defaults import source
from slap_jax.config.rules import ConfigError
from slap_jax.data.evaluation_set import EvaluationSet
from slap_jax.data.records import parse_dir_split
from slap_jax.evaluation.captioning import CaptionGenerator, captioning
from slap_jax.evaluation.class_details import multi_label_details, single_label_details
from slap_jax.evaluation.clip_set import ClassLabels, ClipSet
from slap_jax.evaluation.embeddings import Embeds, Progress, clip_vectors, text_vectors
from slap_jax.evaluation.frame_scores import frame_scores
from slap_jax.evaluation.probe import probe
from slap_jax.evaluation.retrieval import retrieval
from slap_jax.evaluation.task import Captioning, EvaluationTask, Measure, Probe, Retrieval, ZeroShot
from slap_jax.evaluation.zero_shot import zero_shot, zero_shot_multi_label
from slap_jax.inference.prompts import class_embeddings

CROP = "none"  # whole clips, always

# Receives the name of a set and, for each clip with captions, the vectors of its audio and of its first caption, and
# that caption.
OnPairs = Callable[[str, np.ndarray, np.ndarray, Sequence[str]], None]


def evaluate(
    embedder: Embeds,
    params: Mapping[str, Any],
    tasks: Iterable[EvaluationTask],
    *,
    seed: int = 0,
    resamples: int = 1_000,
    generator: CaptionGenerator | None = None,
    progress: Progress | None = None,
    on_pairs: OnPairs | None = None,
) -> dict[str, Any]:
    """Embeds every clip and caption once and scores them.

    Args:
        embedder: embedder of the model; reuse it between calls, because it holds the compiled programs.
        params: `params["model"]` of a run.
        tasks: tasks made by `slap_jax.evaluation.task`, or by a suite.
        seed: seed of the bootstrap.
        resamples: number of resamples of the bootstrap, over clips.
        generator: captions clips; captioning tasks need it.
        progress: called while clips are embedded.
        on_pairs: called once for every set on which retrieval is measured.

    Returns:
        Scores by kind, then by set, as JSON values. The keys "retrieval" and "zero_shot" are always there;
        "zero_shot_multi_label", "captioning", "probe" and "frames" if a task measures them. Every entry has its numbers
        with intervals, and `split`, `split_fingerprint`, `path`, `crop`, `set_size`, `n_published`, `sources`, `text`;
        classification also `template`, `label`, `classes`, and the details of `slap_jax.evaluation.class_details`.

    Raises:
        CaptioningError, ProbeError: a package or the caption decoder is missing.
    """
    results: dict[str, Any] = {"retrieval": {}, "zero_shot": {}}
    bootstrap = {"seed": seed, "resamples": resamples}
    for task in tasks:
        data = task.data
        audio = np.zeros((0, 0), np.float32)
        if any(isinstance(measure, (Retrieval, ZeroShot)) for measure in task.measures):
            (audio,) = clip_vectors([lambda waveforms: embedder.audio(params, waveforms)], data, progress)
        for measure in task.measures:
            match measure:
                case Retrieval():
                    entries = {data.name: _retrieval(embedder, params, data, audio, bootstrap, on_pairs)}
                case ZeroShot():
                    entries = _zero_shot(embedder, params, data, measure, audio, bootstrap)
                case Captioning():
                    entries = {data.name: captioning(data, generator, progress=progress, **bootstrap)}
                case Probe():
                    entries = probe(embedder, params, data, measure, progress=progress, **bootstrap)
                case _:
                    entries = {data.name: frame_scores(embedder, params, data, progress=progress, **bootstrap)}
            about = _about(data, measure)
            kind = results.setdefault(measure.kind, {})
            kind.update({name: {**scores, **about} for name, scores in entries.items()})
    return results


def scalars(results: Mapping[str, Any]) -> dict[str, float]:
    """Flattens results to `retrieval/SET/t2a_r1` -> number, for curves, without intervals, counts and texts."""
    return {
        f"{kind}/{name}/{metric}": value
        for kind, sets in results.items()
        for name, scores in sets.items()
        if isinstance(scores, Mapping)
        for metric, value in scores.items()
        if isinstance(value, float)
    }


def parse_data_argument(text: str) -> tuple[str, ConfigDict]:
    """Parses `NAME=PATH:SPLIT` or `NAME=PATH:SPLIT:LABEL` of the command line.

    Raises:
        ConfigError: `text` has another form.
        UrlError: the path is a URL.
    """
    name, _, location = text.partition("=")
    rest, label = parse_dir_split(location)
    path, split = parse_dir_split(rest)
    if not split:
        path, split, label = rest, label, ""
    if not (name and path and split):
        raise ConfigError(f"--data {text!r} is not NAME=PATH:SPLIT or NAME=PATH:SPLIT:LABEL")
    return name, source(path, split, label=label)


def write_results(results: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes results as JSON, atomically."""
    write_text_atomic(path, json.dumps(results, indent=2) + "\n")


def _retrieval(
    embedder: Embeds,
    params: Mapping[str, Any],
    data: ClipSet,
    audio: np.ndarray,
    bootstrap: Mapping[str, int],
    on_pairs: OnPairs | None,
) -> dict[str, Any]:
    captioned, first, owner = np.unique(data.owner, return_index=True, return_inverse=True)
    text = text_vectors(embedder, params, data, data.captions)
    if on_pairs:
        on_pairs(data.name, audio[captioned], text[first], [data.captions[index] for index in first])
    cut = sum(data.tokenizer.length(caption) > data.max_tokens for caption in data.captions)
    return {**retrieval(audio[captioned], text, owner, data.captions, **bootstrap), "n_captions_cut": cut}


def _zero_shot(
    embedder: Embeds,
    params: Mapping[str, Any],
    data: ClipSet,
    measure: ZeroShot,
    audio: np.ndarray,
    bootstrap: Mapping[str, int],
) -> dict[str, dict[str, Any]]:
    """Returns an entry for each template: the first has the name of the set, an ensemble the suffix `_ensemble`."""
    labels, labelled = measure.labels, np.flatnonzero(measure.labels.labelled)
    names = [(index, clip.id) for index, clip in enumerate(data.facts)]
    entries = {}
    for template in measure.templates:
        prompts = text_vectors(embedder, params, data, measure.prompts(template))
        classes = class_embeddings(prompts, len(labels.classes))
        if labels.multi_label:
            scores = zero_shot_multi_label(audio, classes, labels.truth, **bootstrap)
            details = multi_label_details(audio @ classes.T, labels.truth, labels.classes, names)
        else:
            scores = zero_shot(audio, classes, labels.index, measure.folds or None, **bootstrap)
            scored = [names[index] for index in labelled]
            details = single_label_details(audio[labelled] @ classes.T, labels.index[labelled], labels.classes, scored)
        about = {"template": template, "label": labels.key, "classes": list(labels.classes), **details}
        if measure.words:
            about["words"] = dict(measure.words)
        name = data.name if template == measure.templates[0] else f"{data.name}_{template.partition('_')[0]}"
        entries[name] = {**scores, **about}
    return entries


def _about(data: ClipSet, measure: Measure) -> dict[str, Any]:
    """Returns how a measure was taken, for the record."""
    about = {
        "split": data.split,
        "split_fingerprint": data.fingerprint,
        **({"path": str(data.clips.path)} if isinstance(data.clips, EvaluationSet) else {}),
        "crop": CROP,
        "set_size": len(data.clips),
        "n_published": data.n_published,
        "sources": data.sources,
    }
    labels: ClassLabels | None = getattr(measure, "labels", None)
    if labels is not None and labels.n_published is not None:
        about["n_classes_published"] = labels.n_published
    if isinstance(measure, Probe):  # hears audio alone
        return about
    return {**about, "text": {"changes": "none", "cut_at_tokens": data.max_tokens}}
