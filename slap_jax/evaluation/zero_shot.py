"""Zero-shot classification: the class whose prompts are most similar to a clip, or a score for every class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from slap_jax.evaluation.class_details import strict_predictions
from slap_jax.evaluation.intervals import average_precisions, cluster_interval, resampled_mean
from slap_jax.inference.prompts import ZeroShotError

_MOST_RESAMPLES = 200  # of mAP, whose bootstrap ranks every class again


def zero_shot(
    audio: Float[np.ndarray, "N E"],
    classes: Float[np.ndarray, "Y E"],
    truth: Int[np.ndarray, " N"],
    folds: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = 1_000,
) -> dict[str, Any]:
    """Computes the top-1 accuracy over the clips that have a class.

    A prediction is correct only if the true class is strictly more similar than every other class, so a constant
    similarity scores 0, not the frequency of the first class.

    Args:
        audio: unit embeddings of the clips.
        classes: unit embeddings of the classes (`class_embeddings`).
        truth: class of each clip; clips with -1 are left out.
        folds: fold of each clip; the accuracy is then the unweighted mean of the accuracies of the folds.
        seed: seed of the bootstrap.
        resamples: number of resamples of the bootstrap.

    Returns:
        `accuracy`, `interval` ([low, high], 95 %), `chance` (1 / classes), `majority` (frequency of the most frequent
        class, which is the score of always predicting it), `n`, `n_classes`; with folds also `fold_accuracies` and
        `pooled_accuracy`.

    Raises:
        ZeroShotError: no clip has a class.
    """
    labelled = truth >= 0
    similarity, truth = audio[labelled] @ classes.T, truth[labelled]
    if len(truth) == 0:
        raise ZeroShotError("no clip to classify: none has a class")
    correct = strict_predictions(similarity, truth) == truth
    parts = None if folds is None else np.asarray(folds)[labelled]
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
    """Computes `accuracy` and `interval`, and with folds `fold_accuracies` and `pooled_accuracy`, as `zero_shot` does.

    Args:
        correct: whether the prediction for each clip is correct.
        folds: fold of each clip, or None.
        seed: seed of the bootstrap.
        resamples: number of resamples of the bootstrap.
    """
    values, about = correct.astype(np.float64), {}
    if folds is not None:
        names, fold, sizes = np.unique(np.asarray(folds), return_inverse=True, return_counts=True)
        means = np.bincount(fold, values) / sizes
        about = {
            "fold_accuracies": {str(name): float(mean) for name, mean in zip(names, means, strict=True)},
            "pooled_accuracy": float(values.mean()),
        }
        values = values * (len(values) / len(names) / sizes)[fold]  # their mean is the mean of the fold accuracies
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
    """Computes the macro mAP of the similarities of clips and classes; see `mean_average_precision`."""
    return mean_average_precision(audio @ classes.T, truth, seed=seed, resamples=resamples)


def mean_average_precision(
    scores: Float[np.ndarray, "N Y"], truth: Bool[np.ndarray, "N Y"], *, seed: int = 0, resamples: int = 1_000
) -> dict[str, Any]:
    """Computes macro mAP: the mean over the classes of the average precision of each class over all clips.

    Args:
        scores: scores of each clip for each class; NaN ranks last.
        truth: which classes each clip has; a class that no clip has is left out.
        seed: seed of the bootstrap.
        resamples: number of resamples of the bootstrap, at most 200.

    Returns:
        `map`, `interval` ([low, high], 95 %), `chance` (mean fraction of positive clips per class, which is the score
        of a constant), `n`, `n_classes`, `n_classes_scored`, `resamples`.

    Raises:
        ZeroShotError: no clip has a class.
    """
    scored = truth.any(axis=0)
    if not scored.any():
        raise ZeroShotError("no clip to score: none has a class")
    resamples = min(resamples, _MOST_RESAMPLES)
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
