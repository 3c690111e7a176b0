"""Zero-shot classification: a clip gets the class whose text embedding is most similar; or a score for every class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from slap_jax.evaluation.intervals import average_precisions, cluster_interval, resampled_mean
from slap_jax.inference.prompts import ZeroShotError


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
        raise _no_label(labels, key)
    index = {name: number for number, name in enumerate(classes)}
    return classes, np.array([-1 if value is None else index[value] for value in values], np.int64)


def true_sets(labels: Sequence[Sequence[str]], key: str) -> tuple[list[str], Bool[np.ndarray, "N Y"]]:
    """As `true_classes`, of clips that may have several values of the label, or none.

    Raises:
        ZeroShotError: no clip has the label.
    """
    found = [{label.partition("=")[2] for label in clip if label.partition("=")[:2] == (key, "=")} for clip in labels]
    classes = sorted(set().union(*found))
    if not classes:
        raise _no_label(labels, key)
    index = {name: number for number, name in enumerate(classes)}
    truth = np.zeros((len(labels), len(classes)), bool)
    for clip, values in enumerate(found):
        truth[clip, [index[value] for value in values]] = True
    return classes, truth


def _no_label(labels: Sequence[Sequence[str]], key: str) -> ZeroShotError:
    return ZeroShotError(
        f"no clip has the label {key!r}; labels found: {', '.join(label_keys(labels)) or 'none'}. Set `label` of the "
        "evaluation source to one of them, or to '' for retrieval alone"
    )


def zero_shot(
    audio: Float[np.ndarray, "N E"],
    classes: Float[np.ndarray, "Y E"],
    truth: Int[np.ndarray, " N"],
    folds: Sequence[str] | None = None,
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
        folds: of each clip; the accuracy is then the mean of the folds' accuracies, whatever their sizes.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        `accuracy`, `interval` ([low, high], 95 %), `chance` (1 / classes), `majority` (share of the most frequent
        class, what always naming it would score), `n`, `n_classes`; with folds `fold_accuracies` and
        `pooled_accuracy`.
    """
    kept = truth >= 0
    similarity, truth = audio[kept] @ classes.T, truth[kept]
    if len(truth) == 0:
        raise ZeroShotError("no clip to classify: none has a class")
    similarity = np.where(np.isnan(similarity), -np.inf, similarity)
    own = np.take_along_axis(similarity, truth[:, None], axis=1)
    correct = (similarity >= own).sum(axis=1) == 1
    parts = None if folds is None else np.asarray(folds)[kept]
    return {
        **accuracy(correct, parts, seed=seed, resamples=resamples),
        "chance": 1.0 / len(classes),
        "majority": float(np.bincount(truth).max() / len(truth)),
        "n": len(truth),
        "n_classes": len(classes),
    }


def accuracy(
    correct: Bool[np.ndarray, " N"], folds: Sequence[str] | np.ndarray | None, *, seed: int, resamples: int
) -> dict[str, Any]:
    """`accuracy` and `interval` of clips that are right or wrong; with folds as `zero_shot` says."""
    values, about = correct.astype(np.float64), {}
    if folds is not None:
        names, fold, sizes = np.unique(np.asarray(folds), return_inverse=True, return_counts=True)
        means = np.bincount(fold, values) / sizes
        about = {
            "fold_accuracies": {str(name): float(mean) for name, mean in zip(names, means, strict=True)},
            "pooled_accuracy": float(values.mean()),
        }
        values = values * (len(values) / len(names) / sizes)[fold]  # their mean is the mean of the folds' means
    low, high = cluster_interval(values[:, None], np.arange(len(values)), seed=seed, resamples=resamples)
    return {"accuracy": float(values.mean()), "interval": [float(low[0]), float(high[0])], **about}


def zero_shot_multi_label(
    audio: Float[np.ndarray, "N E"],
    classes: Float[np.ndarray, "Y E"],
    truth: Bool[np.ndarray, "N Y"],
    *,
    seed: int = 0,
    resamples: int = 1_000,
) -> dict[str, Any]:
    """Macro mAP of the similarities of clips and classes; see `mean_average_precision`."""
    return mean_average_precision(audio @ classes.T, truth, seed=seed, resamples=resamples)


def mean_average_precision(
    scores: Float[np.ndarray, "N Y"], truth: Bool[np.ndarray, "N Y"], *, seed: int = 0, resamples: int = 1_000
) -> dict[str, Any]:
    """Macro mAP: the mean over the classes of the average precision of each, over all clips.

    Args:
        scores: of each clip for each class; what is not a number ranks last.
        truth: which classes each clip has; a class that no clip has is left out.
        seed: of the bootstrap.
        resamples: of the bootstrap, at most 200.

    Returns:
        `map`, `interval` ([low, high], 95 %), `chance` (the mean share of clips of a class, what a constant score
        earns), `n`, `n_classes`, `n_classes_scored`, `resamples`.
    """
    scored = truth.any(axis=0)
    if not scored.any():
        raise ZeroShotError("no clip to score: none has a class")
    resamples = min(resamples, 200)
    value, low, high = resampled_mean(
        average_precisions, scores[:, scored], truth[:, scored], np.arange(len(truth)), seed=seed, resamples=resamples
    )
    return {
        "map": value,
        "interval": [low, high],
        "chance": float(truth[:, scored].mean()),
        "n": len(truth),
        "n_classes": truth.shape[1],
        "n_classes_scored": int(scored.sum()),
        "resamples": resamples,
    }
