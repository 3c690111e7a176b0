"""Confidence intervals by resampling whole clips, because the captions of one clip are not independent queries."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int


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
