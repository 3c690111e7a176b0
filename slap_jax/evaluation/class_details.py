"""What is behind an accuracy: the score of each class, the classes that are confused, and the clips that are wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from slap_jax.evaluation.intervals import average_precisions

MOST_MISTAKES = 100  # clips to list by name


def strict_predictions(scores: Float[np.ndarray, "N Y"], truth: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Returns the predicted class of each clip: the one with the highest score.

    If the true class ties with another one, the other one counts as predicted, so that constant scores are always wrong
    and not as often right as the first class occurs.

    Args:
        scores: score of each class for each clip; NaN ranks last.
        truth: index of the true class of each clip; -1 if it is not one of the Y classes.
    """
    rows = np.arange(len(scores))
    others = np.where(np.isnan(scores), -np.inf, scores)
    own = np.where(truth >= 0, others[rows, truth], -np.inf)
    known = truth >= 0
    others[rows[known], truth[known]] = -np.inf
    rival = others.argmax(axis=1)
    if others.shape[1] == 1:
        return np.where(known, truth, rival)
    # A score of -inf ties with itself: all NaN counts as wrong.
    rival = np.where(known & (rival == truth), (truth + 1) % others.shape[1], rival)
    return np.where(known & (own > others[rows, rival]), truth, rival)


def single_label_details(
    scores: Float[np.ndarray, "N Y"],
    truth: Int[np.ndarray, " N"],
    classes: Sequence[str],
    clips: Sequence[tuple[int, str]],
    unknown: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """Describes the predictions of a classifier with one class per clip, by the rule of `strict_predictions`.

    Args:
        scores: score of each class for each clip; NaN ranks last.
        truth: index of the true class of each clip; -1 for a class that is not one of `classes`.
        classes: Y names.
        clips: (position in the set, id) of each clip.
        unknown: row -> name of the true class, for the clips with -1.

    Returns:
        `per_class`: class -> `n`, `accuracy` (of its clips, how many are right) and `precision` (of the clips predicted
        as it, how many are right), None where there are no such clips; `confusion`: true class -> predicted class ->
        clips; `n_mistakes`; `mistakes`: up to 100 wrong clips, sampled at random, with `clip`, `id`, `true`,
        `predicted` and `score`.
    """
    predicted = strict_predictions(scores, truth)
    names = [classes[int(index)] if index >= 0 else (unknown or {})[row] for row, index in enumerate(truth)]
    guesses = [classes[int(index)] for index in predicted]

    confusion: dict[str, dict[str, int]] = {}
    for name, guess in zip(names, guesses, strict=True):
        row = confusion.setdefault(name, {})
        row[guess] = row.get(guess, 0) + 1
    order = [*classes, *sorted(set(names) - set(classes))]
    per_class = {}
    for name in order:
        counts = confusion.get(name, {})
        n, hits = sum(counts.values()), counts.get(name, 0)
        answered = sum(row.get(name, 0) for row in confusion.values())
        per_class[name] = {
            "n": n,
            "accuracy": hits / n if n else None,
            "precision": hits / answered if answered else None,
        }
    return {
        "per_class": per_class,
        "confusion": {name: confusion[name] for name in order if name in confusion},
        **_mistakes(
            predicted != truth,
            clips,
            names,
            guesses,
            scores[np.arange(len(scores)), predicted],
        ),
    }


def multi_label_details(
    scores: Float[np.ndarray, "N Y"],
    truth: Bool[np.ndarray, "N Y"],
    classes: Sequence[str],
    clips: Sequence[tuple[int, str]],
) -> dict[str, Any]:
    """Describes the scores of a classifier with any number of classes per clip.

    Args:
        scores: score of each class for each clip; NaN ranks last.
        truth: which classes each clip has.
        classes: Y names.
        clips: (position in the set, id) of each clip.

    Returns:
        `per_class`: class -> `n` and `average_precision` (None without a clip); `n_mistakes` and `mistakes` as
        `single_label_details`: clips whose highest class is not one of theirs, with all of their classes in `true`.
    """
    once = np.ones((1, len(scores)))
    per_class = {}
    for index, name in enumerate(classes):
        n = int(truth[:, index].sum())
        precision = float(average_precisions(scores[:, index], truth[:, index], once)[0]) if n else None
        per_class[name] = {"n": n, "average_precision": precision}
    scores = np.where(np.isnan(scores), -np.inf, scores)
    rows, best = np.arange(len(scores)), scores.argmax(axis=1)
    wrong = truth.any(axis=1) & ~truth[rows, best]
    names = [", ".join(name for name, is_true in zip(classes, row, strict=True) if is_true) for row in truth]
    return {
        "per_class": per_class,
        **_mistakes(wrong, clips, names, [classes[int(index)] for index in best], scores[rows, best]),
    }


def _mistakes(
    wrong: Bool[np.ndarray, " N"],
    clips: Sequence[tuple[int, str]],
    true: Sequence[str],
    predicted: Sequence[str],
    scores: Float[np.ndarray, " N"],
) -> dict[str, Any]:
    rows = np.flatnonzero(wrong)
    chosen = np.random.default_rng(0).permutation(rows)[:MOST_MISTAKES]
    return {
        "n_mistakes": len(rows),
        "mistakes": [
            {
                "clip": clips[row][0],
                "id": clips[row][1],
                "true": true[row],
                "predicted": predicted[row],
                "score": float(scores[row]) if np.isfinite(scores[row]) else None,
            }
            for row in map(int, chosen)
        ],
    }
