"""Confidence intervals by resampling whole clips, because the captions of one clip are not independent queries."""

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

    generator = np.random.default_rng(seed)
    block = max(1, 4_000_000 // cluster_count)  # bounds the memory of the drawn indices for big sets
    means = []
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = generator.integers(cluster_count, size=(count, cluster_count))
        drawn += cluster_count * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * cluster_count).reshape(count, cluster_count)
        times = times.astype(np.float64)
        means.append((times @ sums) / (times @ sizes)[:, None])
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.concatenate(means), [tail, 1.0 - tail], axis=0)
    return low, high
