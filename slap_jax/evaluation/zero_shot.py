"""Zero-shot classification: a clip gets the class whose text embedding is most similar. One true class per clip."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from slap_jax.evaluation.bootstrap import cluster_interval

# Named prompt sets; {} is the class name. A result is only comparable with another of the same template.
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "ensemble": ("{}", "the sound of {}", "a sound of {}", "{} can be heard", "this is a recording of {}"),
    "sound": ("this is a sound of {}",),
    "heard": ("{} can be heard",),
    "plain": ("{}",),
}
DEFAULT_TEMPLATE = "ensemble"


class ZeroShotError(ValueError):
    """Labels or a template that zero-shot classification cannot use; the message says what to write instead."""


def template_prompts(template: str) -> tuple[str, ...]:
    """Returns the prompts of a named template; a string that holds `{}` is a template of its own.

    Raises:
        ZeroShotError: neither a known name nor a string with `{}`.
    """
    if template in TEMPLATES:
        return TEMPLATES[template]
    if "{}" in template:
        return (template,)
    raise ZeroShotError(
        f"template {template!r} is not known; name one of {', '.join(TEMPLATES)}, or write a prompt with {{}} in it, "
        "such as 'the sound of {}'"
    )


def class_prompts(classes: Sequence[str], template: str = DEFAULT_TEMPLATE) -> list[str]:
    """Returns the prompts of all classes, the prompts of a class together; underscores of names become spaces."""
    prompts = template_prompts(template)
    return [prompt.replace("{}", name.replace("_", " ")) for name in classes for prompt in prompts]


def class_embeddings(prompts: Float[np.ndarray, "P E"], classes: int) -> Float[np.ndarray, "Y E"]:
    """Averages the unit embeddings of `class_prompts` over the prompts of each of the Y classes; unit length again."""
    mean = np.asarray(prompts, np.float32).reshape(classes, -1, prompts.shape[-1]).mean(axis=1)
    return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def label_keys(labels: Sequence[Sequence[str]]) -> list[str]:
    """Returns the keys of all "key=value" labels, sorted."""
    return sorted({label.partition("=")[0] for clip in labels for label in clip if "=" in label})


def true_classes(labels: Sequence[Sequence[str]], key: str) -> tuple[list[str], Int[np.ndarray, " N"]]:
    """Reads the class of each clip from its `key=value` labels.

    Args:
        labels: the label strings of each clip.
        key: which label is the class.

    Returns:
        The classes, sorted and distinct, and the index of each clip's class; -1 for a clip without the label.

    Raises:
        ZeroShotError: no clip has the label, or a clip has several values of it.
    """
    values: list[str | None] = []
    for position, clip in enumerate(labels):
        found = sorted({label.partition("=")[2] for label in clip if label.partition("=")[:2] == (key, "=")})
        if len(found) > 1:
            raise ZeroShotError(
                f"clip {position} has {len(found)} values of the label {key!r} ({', '.join(found)}); zero-shot "
                "classification predicts one class per clip: choose a label with one value"
            )
        values.append(found[0] if found else None)
    classes = sorted({value for value in values if value is not None})
    if not classes:
        known = label_keys(labels)
        raise ZeroShotError(
            f"no clip has the label {key!r}; labels found: {', '.join(known) or 'none'}. Set `label` of the evaluation "
            "source to one of them, or to '' for retrieval alone"
        )
    index = {name: number for number, name in enumerate(classes)}
    return classes, np.array([-1 if value is None else index[value] for value in values], np.int64)


def zero_shot(
    audio: Float[np.ndarray, "N E"],
    classes: Float[np.ndarray, "Y E"],
    truth: Int[np.ndarray, " N"],
    *,
    seed: int = 0,
    resamples: int = 1_000,
) -> dict[str, Any]:
    """Top-1 accuracy over the clips that have a class.

    A clip counts as right only if its class is strictly more similar than every other, so a constant similarity scores
    0, not the share of the first class.

    Args:
        audio: unit embeddings of the clips.
        classes: unit embeddings of the classes (`class_embeddings`).
        truth: class of each clip; clips with -1 are left out.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        `accuracy`, `interval` ([low, high], 95 %), `chance` (1 / classes), `majority` (share of the most frequent
        class, what always naming it would score), `n`, `n_classes`.
    """
    kept = truth >= 0
    similarity, truth = audio[kept] @ classes.T, truth[kept]
    if len(truth) == 0:
        raise ZeroShotError("no clip to classify: none has a class")
    similarity = np.where(np.isnan(similarity), -np.inf, similarity)
    own = np.take_along_axis(similarity, truth[:, None], axis=1)
    correct = (similarity >= own).sum(axis=1) == 1
    values = correct[:, None].astype(np.float64)
    low, high = cluster_interval(values, np.arange(len(truth)), seed=seed, resamples=resamples)
    return {
        "accuracy": float(correct.mean()),
        "interval": [float(low[0]), float(high[0])],
        "chance": 1.0 / len(classes),
        "majority": float(np.bincount(truth).max() / len(truth)),
        "n": len(truth),
        "n_classes": len(classes),
    }
