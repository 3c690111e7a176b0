"""Average precision and area under the ROC curve of one class, with the interval of their mean over classes.

Confidence intervals by resampling whole clips, because the captions of one clip are not independent queries.
"""

from collections.abc import Callable, Iterator

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


def cluster_interval(
    values: Float[np.ndarray, "Q M"],
    clusters: Int[np.ndarray, " Q"],
    *,
    seed: int = 0,
    resamples: int = 1_000,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Percentile bootstrap interval of the mean over queries, drawing clusters (clips) with replacement.

    The values of the queries are held fixed: the candidates they were ranked against are not resampled, so the
    interval tells how far the mean would move with other queries of the same kind.

    Args:
        values: M numbers per query, such as hit or miss at ranks 1, 5 and 10; Q >= 1.
        clusters: the clip a query belongs to; any integers.
        seed: of the resampling; the same seed gives the same interval.
        resamples: bootstrap samples.
        level: share of the resampled means inside the interval.

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
    """Percentile bootstrap interval of the median over queries; everything else as in `cluster_interval`."""
    if len(values) == 0:
        raise ValueError("no query to resample: the bootstrap needs at least one")
    _, cluster = np.unique(clusters, return_inverse=True)
    order = np.argsort(values, kind="stable")
    ordered, cluster = np.asarray(values)[order], cluster[order]
    medians = []
    for drawn in _draws(int(cluster.max()) + 1, seed, resamples):
        for times in drawn.astype(np.int64):
            before = np.cumsum(times[cluster])  # of each value in order: how many drawn ones are at it or before it
            middle = [(before[-1] - 1) // 2, before[-1] // 2]  # two different ones where the number is even
            medians.append(ordered[np.searchsorted(before, middle, side="right")].mean())
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(medians, [tail, 1.0 - tail])
    return float(low), float(high)


def _draws(clusters: int, seed: int, resamples: int) -> Iterator[Float[np.ndarray, "B K"]]:
    """How often each cluster is drawn in each resample, some resamples at a time."""
    generator = np.random.default_rng(seed)
    block = max(1, 4_000_000 // clusters)  # bounds the memory of the drawn indices for big sets
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = generator.integers(clusters, size=(count, clusters))
        drawn += clusters * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * clusters).reshape(count, clusters)
        yield times.astype(np.float64)
