"""Evaluates a model on prepared splits: retrieval, and zero-shot classification where a label is named."""

import dataclasses
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from slap_jax.config import ConfigError, source
from slap_jax.data.evaluation_set import EvaluationClip, load_evaluation
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.evaluation.retrieval import retrieval
from slap_jax.evaluation.zero_shot import (
    DEFAULT_TEMPLATE,
    class_embeddings,
    class_prompts,
    label_keys,
    template_prompts,
    true_classes,
    zero_shot,
)
from slap_jax.inference.embedder import Embedder

CROP = "none"  # full clips, always


@dataclasses.dataclass(frozen=True)
class EvaluationTask:
    """One evaluation set with everything about it that does not depend on parameters.

    Attributes:
        name: key of the results.
        split: which split of the data, for the record.
        clips: whole clips, in a fixed order.
        captions: texts of all captions, clip by clip.
        owner: [M], the clip of each caption.
        caption_tokens: token ids of each caption.
        label: key of the label to classify; "" for retrieval alone.
        template: name of the prompts.
        classes: Y sorted class names; empty without a label.
        truth: [N], class of each clip, -1 for none.
        prompt_tokens: token ids of the prompts, those of a class together.
        fingerprint: short hash of ids, lengths, captions and labels: equal for results that may be compared.
    """

    name: str
    split: str
    clips: Sequence[EvaluationClip]
    captions: Sequence[str]
    owner: Int[np.ndarray, " M"]
    caption_tokens: Sequence[Sequence[int]]
    label: str
    template: str
    classes: Sequence[str]
    truth: Int[np.ndarray, " N"]
    prompt_tokens: Sequence[Sequence[int]]
    fingerprint: str


def make_task(
    name: str,
    clips: Sequence[EvaluationClip],
    tokenizer: Tokenizer,
    max_tokens: int,
    *,
    split: str = "",
    label: str = "",
    template: str = DEFAULT_TEMPLATE,
) -> EvaluationTask:
    """Prepares clips for `evaluate`.

    Args:
        name: key of the results.
        clips: two or more with captions for retrieval, of which clips without take no part, or any with a label.
        tokenizer: of the model.
        max_tokens: at which captions are cut, `config.data.max_caption_tokens`.
        split: for the record.
        label: key of the label to classify; "" for retrieval alone.
        template: see `slap_jax.evaluation.zero_shot`.

    Raises:
        ConfigError: nothing can be evaluated: no clips, or neither captions nor a label.
        ZeroShotError: the label or the template cannot be used.
    """
    if not clips:
        raise ConfigError(f"evaluation set {name!r} holds no clips; name a split that does")
    _check_captions(name, clips, label)
    template_prompts(template)
    captions = [caption for clip in clips for caption in clip.captions]
    owner = np.repeat(np.arange(len(clips)), [len(clip.captions) for clip in clips])
    classes, truth = true_classes([clip.labels for clip in clips], label) if label else ([], np.full(len(clips), -1))
    prompts = class_prompts(classes, template)
    return EvaluationTask(
        name=name,
        split=split,
        clips=clips,
        captions=captions,
        owner=owner,
        caption_tokens=[tokenizer.encode(caption, max_tokens) for caption in captions],
        label=label,
        template=template,
        classes=classes,
        truth=truth,
        prompt_tokens=[tokenizer.encode(prompt, max_tokens) for prompt in prompts],
        fingerprint=_fingerprint(clips),
    )


def _check_captions(name: str, clips: Sequence[EvaluationClip], label: str) -> None:
    """Says which part of the evaluation clips without captions cannot take part in; raises if nothing is left."""
    captioned = sum(bool(clip.captions) for clip in clips)
    if captioned < 2 and not label:
        known = ", ".join(label_keys([clip.labels for clip in clips]))
        raise ConfigError(
            f"evaluation set {name!r}: {captioned} of {len(clips)} clips have captions, and retrieval needs two; for "
            f"zero-shot classification set `label` of the evaluation source to one of its label keys: "
            f"{known or 'it has none'}"
        )
    if captioned < len(clips):
        left = "only those take part in retrieval" if captioned > 1 else "it has no retrieval results"
        logging.info("evaluation set %r: %d of %d clips have captions; %s", name, captioned, len(clips), left)


def load_tasks(
    sources: ConfigDict | Mapping[str, Any], tokenizer: Tokenizer, max_tokens: int, template: str = DEFAULT_TEMPLATE
) -> list[EvaluationTask]:
    """Reads every evaluation set of a config into memory.

    Args:
        sources: name -> `source(path, split, label=...)`, as `config.data.evaluation`.
        tokenizer: of the model.
        max_tokens: `config.data.max_caption_tokens`.
        template: for zero-shot classification.

    Raises:
        RecordsError: data that is not prepared, or has no such split.
        ConfigError: a set of which nothing can be evaluated.
        ZeroShotError: the label or the template cannot be used.
    """
    return [
        make_task(
            name,
            list(load_evaluation(settings.path, settings.split)),
            tokenizer,
            max_tokens,
            split=settings.split,
            label=settings.label,
            template=template,
        )
        for name, settings in sources.items()
    ]


def evaluate(
    embedder: Embedder,
    params: Mapping[str, Any],
    tasks: Iterable[EvaluationTask],
    *,
    seed: int = 0,
    resamples: int = 1_000,
) -> dict[str, Any]:
    """Embeds every clip and caption once and scores them.

    Args:
        embedder: of the model; keep it between calls, it holds the compiled programs.
        params: of the model (`params["model"]` of a run).
        tasks: from `load_tasks`.
        seed: of the bootstrap.
        resamples: of the bootstrap, over clips.

    Returns:
        JSON: `{"retrieval": {set: ...}, "zero_shot": {set: ...}}`, with the numbers of `retrieval` and `zero_shot` and
        with `split`, `split_fingerprint`, `crop`, and `template`, `label`, `classes`. A set of fewer than two captioned
        clips has no retrieval, one without a label no zero-shot entry.
    """
    results: dict[str, Any] = {"retrieval": {}, "zero_shot": {}}
    for task in tasks:
        about = {"split": task.split, "split_fingerprint": task.fingerprint, "crop": CROP}
        audio = embedder.audio(params, [clip.waveform for clip in task.clips])
        captioned, owner = np.unique(task.owner, return_inverse=True)
        if len(captioned) > 1:
            text = embedder.text(params, task.caption_tokens)
            scores = retrieval(audio[captioned], text, owner, task.captions, seed=seed, resamples=resamples)
            results["retrieval"][task.name] = {**scores, **about}
        if task.label:
            prompts = class_embeddings(embedder.text(params, task.prompt_tokens), len(task.classes))
            scores = zero_shot(audio, prompts, task.truth, seed=seed, resamples=resamples)
            about |= {"template": task.template, "label": task.label, "classes": list(task.classes)}
            results["zero_shot"][task.name] = {**scores, **about}
    return results


def scalars(results: Mapping[str, Any]) -> dict[str, float]:
    """Flattens results to `retrieval/SET/t2a_r1` -> number, for curves; intervals, counts and texts are left out."""
    return {
        f"{kind}/{name}/{metric}": value
        for kind, sets in results.items()
        for name, scores in sets.items()
        for metric, value in scores.items()
        if isinstance(value, float)
    }


def table(results: Mapping[str, Any]) -> str:
    """Formats results as text, with chance and N beside every set."""
    lines = []
    if results["retrieval"]:
        lines.append(
            f"{'retrieval':<24}{'clips':>7}{'captions':>10}  {'R@1 (95 %)':>20}{'R@10':>8}{'mAP@10':>8}{'chance':>8}"
        )
        for name, scores in results["retrieval"].items():
            for direction, arrow, chance in (
                ("t2a", "text to audio", "chance_r1"),
                ("a2t", "audio to text", "a2t_chance_r1"),
            ):
                low, high = scores[f"{direction}_r1_interval"]
                r1 = f"{scores[f'{direction}_r1']:.3f} ({low:.3f}-{high:.3f})"
                lines.append(
                    f"{name + ', ' + arrow:<24}{scores['n_clips']:>7}{scores['n_captions']:>10}  {r1:>20}"
                    f"{scores[f'{direction}_r10']:>8.3f}{scores[f'{direction}_map10']:>8.3f}{scores[chance]:>8.3f}"
                )
    if results["zero_shot"]:
        lines.append(
            f"{'zero-shot':<24}{'clips':>7}{'classes':>10}  {'accuracy (95 %)':>20}{'':>8}{'major':>8}{'chance':>8}"
        )
        for name, scores in results["zero_shot"].items():
            low, high = scores["interval"]
            accuracy = f"{scores['accuracy']:.3f} ({low:.3f}-{high:.3f})"
            lines.append(
                f"{name + ', ' + scores['label']:<24}{scores['n']:>7}{scores['n_classes']:>10}  {accuracy:>20}"
                f"{'':>8}{scores['majority']:>8.3f}{scores['chance']:>8.3f}"
            )
    return "\n".join(lines) or "nothing was evaluated"


def parse_data_argument(text: str) -> tuple[str, ConfigDict]:
    """Reads `name=path:split` or `name=path:split:label` of the command line.

    Raises:
        ConfigError: another form.
    """
    # Neither a split nor a label holds a slash, so the colon of gs://bucket belongs to the path.
    found = re.fullmatch(r"([^=]+)=(.+?):([^:/]+)(?::([^:/]*))?", text)
    if found is None:
        raise ConfigError(f"--data {text!r} is not NAME=PATH:SPLIT or NAME=PATH:SPLIT:LABEL")
    name, path, split, label = found.groups(default="")
    return name, source(path, split, label=label)


def write_results(results: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes results as JSON, whole or not at all."""
    partial = f"{os.fspath(path)}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=2)
        file.write("\n")
    os.replace(partial, path)


def _fingerprint(clips: Sequence[EvaluationClip]) -> str:
    digest = hashlib.sha256()
    for clip in clips:
        entry = [clip.id, len(clip.waveform), list(clip.captions), list(clip.labels)]
        digest.update(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()[:16]
