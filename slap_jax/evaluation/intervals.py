"""Average precision, area under the ROC curve, and bootstrap confidence intervals.

The bootstrap resamples whole clips, because the captions or seconds of one clip are not independent.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

_MOST_DRAWN = 4_000_000  # drawn indices in memory at a time

Score = Callable[[Float[np.ndarray, " N"], Bool[np.ndarray, " N"], Float[np.ndarray, "B N"]], Float[np.ndarray, " B"]]


def average_precisions(
    scores: Float[np.ndarray, " N"], truth: Bool[np.ndarray, " N"], times: Float[np.ndarray, "B N"]
) -> Float[np.ndarray, " B"]:
    """Computes the average precision: the mean over the positives of the precision at their score, not interpolated.

    Args:
        scores: higher is more positive; equal scores are one threshold; NaN ranks last.
        truth: which items are positive.
        times: multiplicity of each item, for each of B bootstrap samples.

    Returns:
        B results; NaN where no positive counts. With `times` 1, as `sklearn.metrics.average_precision_score`.
    """
    hits, misses = _counts(scores, truth, times)
    new_hits = np.diff(hits, axis=1)
    precision = hits[:, 1:] / np.maximum(hits[:, 1:] + misses[:, 1:], 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (new_hits * precision).sum(axis=1) / hits[:, -1]


def areas_under_roc(
    scores: Float[np.ndarray, " N"], truth: Bool[np.ndarray, " N"], times: Float[np.ndarray, "B N"]
) -> Float[np.ndarray, " B"]:
    """Computes the area under the ROC curve: the fraction of correctly ordered (positive, negative) pairs.

    A tie counts half. Arguments and results are those of `average_precisions`; NaN also where no negative counts.
    """
    hits, misses = _counts(scores, truth, times)
    area = (np.diff(misses, axis=1) * (hits[:, 1:] + hits[:, :-1]) / 2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return area / (hits[:, -1] * misses[:, -1])


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
    """Computes the mean of a score over classes, with its percentile bootstrap interval over clusters (clips).

    Args:
        score: `average_precisions` or `areas_under_roc`.
        scores: scores of N items for Y classes.
        truth: which classes each item has.
        clusters: clip of each item, 0, 1, ...
        seed: seed of the resampling.
        resamples: number of bootstrap samples.
        level: fraction of the resampled means inside the interval.

    Returns:
        Value, lower and upper end. The mean of a sample leaves out classes without a positive (or negative) in it.
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


def cluster_interval(
    values: Float[np.ndarray, "Q M"],
    clusters: Int[np.ndarray, " Q"],
    *,
    seed: int = 0,
    resamples: int = 1_000,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Computes the percentile bootstrap interval of the mean over queries, drawing clusters (clips) with replacement.

    The values of the queries stay fixed: the candidates are not resampled, so the interval is about other queries of
    the same kind, not about another candidate set.

    Args:
        values: M numbers per query, such as hit or miss at ranks 1, 5 and 10; Q >= 1.
        clusters: clip of each query; any integers.
        seed: seed of the resampling.
        resamples: number of bootstrap samples.
        level: fraction of the resampled means inside the interval.

    Returns:
        Lower and upper ends, [M] each.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3; clusters as in Davison and
    Hinkley (1997), section 3.8.
    """
    if len(values) == 0:
        raise ValueError("no query to resample: the bootstrap needs at least one")
    _, cluster = np.unique(clusters, return_inverse=True)
    cluster_count = int(cluster.max()) + 1
    sizes = np.bincount(cluster, minlength=cluster_count).astype(np.float64)
    sums = np.zeros((cluster_count, values.shape[1]))
    np.add.at(sums, cluster, values)

    means = [(times @ sums) / (times @ sizes)[:, None] for times in _draws(cluster_count, seed, resamples)]
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.concatenate(means), [tail, 1.0 - tail], axis=0)
    return low, high


def cluster_median_interval(
    values: Float[np.ndarray, " Q"],
    clusters: Int[np.ndarray, " Q"],
    *,
    seed: int = 0,
    resamples: int = 1_000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Computes the percentile bootstrap interval of the median over queries; otherwise as `cluster_interval`."""
    if len(values) == 0:
        raise ValueError("no query to resample: the bootstrap needs at least one")
    _, cluster = np.unique(clusters, return_inverse=True)
    order = np.argsort(values, kind="stable")
    ordered, cluster = np.asarray(values)[order], cluster[order]
    medians = []
    for drawn in _draws(int(cluster.max()) + 1, seed, resamples):
        for times in drawn.astype(np.int64):
            cumulative = np.cumsum(times[cluster])  # number of drawn values up to each value
            middle = [(cumulative[-1] - 1) // 2, cumulative[-1] // 2]  # differ if the number of drawn values is even
            medians.append(ordered[np.searchsorted(cumulative, middle, side="right")].mean())
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(medians, [tail, 1.0 - tail])
    return float(low), float(high)


def _draws(clusters: int, seed: int, resamples: int) -> Iterator[Float[np.ndarray, "B K"]]:
    """Yields how often each of K clusters is drawn, for a block of B resamples at a time."""
    generator = np.random.default_rng(seed)
    block = max(1, _MOST_DRAWN // clusters)
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = generator.integers(clusters, size=(count, clusters))
        drawn += clusters * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * clusters).reshape(count, clusters)
        yield times.astype(np.float64)


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
