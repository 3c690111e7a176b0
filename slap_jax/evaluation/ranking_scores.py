"""Average precision and area under the ROC curve of one class, with the interval of their mean over classes."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

Score = Callable[[Float[np.ndarray, " N"], Bool[np.ndarray, " N"], Float[np.ndarray, "B N"]], Float[np.ndarray, " B"]]


def average_precisions(
    scores: Float[np.ndarray, " N"], truth: Bool[np.ndarray, " N"], times: Float[np.ndarray, "B N"]
) -> Float[np.ndarray, " B"]:
    """Average precision: the mean over the positives of the precision at their score, without interpolation.

    Args:
        scores: higher is more positive; equal ones are one threshold; what is not a number comes last.
        truth: positives.
        times: how often each item counts, for each of B results.

    Returns:
        B results, NaN where no positive counts. With `times` 1 the definition of
        `sklearn.metrics.average_precision_score`.
    """
    hits, misses = _counts(scores, truth, times)
    gained = np.diff(hits, axis=1)
    precision = hits[:, 1:] / np.maximum(hits[:, 1:] + misses[:, 1:], 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (gained * precision).sum(axis=1) / hits[:, -1]


def areas_under_roc(
    scores: Float[np.ndarray, " N"], truth: Bool[np.ndarray, " N"], times: Float[np.ndarray, "B N"]
) -> Float[np.ndarray, " B"]:
    """Area under the ROC curve: the share of pairs of a positive and a negative in the right order, ties counting half.

    Args and returns as `average_precisions`; NaN also where no negative counts.
    """
    hits, misses = _counts(scores, truth, times)
    area = (np.diff(misses, axis=1) * (hits[:, 1:] + hits[:, :-1]) / 2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return area / (hits[:, -1] * misses[:, -1])


def _counts(
    scores: Float[np.ndarray, " N"], truth: Bool[np.ndarray, " N"], times: Float[np.ndarray, "B N"]
) -> tuple[Float[np.ndarray, "B H"], Float[np.ndarray, "B H"]]:
    """Positives and negatives at or above each distinct score, from the highest; the first column is 0."""
    scores = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-scores, kind="stable")
    scores, truth, times = scores[order], truth[order], times[:, order]
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    hits = np.cumsum(times * truth, axis=1)[:, last]
    misses = np.cumsum(times, axis=1)[:, last] - hits
    none = np.zeros((len(times), 1))
    return np.concatenate([none, hits], axis=1), np.concatenate([none, misses], axis=1)


def resampled_mean(
    score: Score,
    scores: Float[np.ndarray, "N Y"],
    truth: Bool[np.ndarray, "N Y"],
    clusters: Int[np.ndarray, " N"],
    *,
    seed: int,
    resamples: int,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """The mean of a score over classes, with its percentile bootstrap interval over clusters (clips).

    Args:
        score: `average_precisions` or `areas_under_roc`.
        scores: of N items for Y classes.
        truth: likewise.
        clusters: the clip that an item belongs to, 0, 1, ...
        seed: of the resampling.
        resamples: bootstrap samples.
        level: share of the resampled means inside the interval.

    Returns:
        Value, lower and upper end. A class without a positive (or negative) in a sample is left out of its mean.
    """
    count = int(clusters.max()) + 1
    generator = np.random.default_rng(seed)
    drawn = [np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(resamples)]
    times = np.stack([np.ones(count), *drawn])[:, clusters]
    values = np.stack([score(scores[:, y], truth[:, y], times) for y in range(scores.shape[1])])
    with np.errstate(invalid="ignore"):
        means = np.nansum(values, axis=0) / np.sum(~np.isnan(values), axis=0)
    tail = (1.0 - level) / 2.0
    low, high = np.nanquantile(means[1:], [tail, 1.0 - tail]) if resamples else (means[0], means[0])
    return float(means[0]), float(low), float(high)
