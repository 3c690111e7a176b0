"""Audio-text retrieval as WavCaps defines it, with equal captions counted as hits.

Definitions, over an evaluation set of N clips with M captions:

- **T2A**: every caption is a query and every clip a candidate. **A2T**: every clip is a query and every caption a
  candidate.
- Captions are *equal* if they agree after `strip()` and `casefold()`. A clip and a caption are *relevant* to each other
  if the clip owns a caption equal to it. If all captions are distinct, this is ownership, exactly as in WavCaps.
- R@k: fraction of the queries whose best-ranked relevant candidate is among the first k.
- mAP@10: mean over the queries of `sum over relevant candidates in the top 10 of (i / rank of the i-th of them)`,
  divided by **all** relevant candidates of the query, retrieved or not (`map_cut_10` of trec_eval). If all captions are
  distinct, the divisor is 1 for T2A and the number of captions of the clip for A2T.
- medR: median over the queries of the 1-based rank of the best-ranked relevant candidate.
- Ties are pessimistic: among equal similarities, irrelevant candidates rank first, so a constant similarity scores 0.
  NaN ranks last.
- Chance of R@1: mean over the queries of the fraction of candidates that are relevant.

Source of the definition: Mei et al., WavCaps (arXiv 2303.17395), `retrieval/tools/utils.py` of its repository.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from slap_jax.evaluation.intervals import cluster_interval, cluster_median_interval

CUTOFFS = (1, 5, 10)
_METRICS = ("r1", "r5", "r10", "map10")
_TOP = CUTOFFS[-1]
_CHUNK_ELEMENTS = 8_000_000  # similarities ranked at a time: 32 MB, and as much again for comparisons


def caption_groups(captions: Sequence[str]) -> Int[np.ndarray, " M"]:
    """Numbers the captions so that equal ones (after `strip` and `casefold`) share a number."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(caption.strip().casefold(), len(numbers)) for caption in captions], np.int64)


def rank_queries(
    similarity: Float[np.ndarray, "Q X"], relevant: Bool[np.ndarray, "Q X"]
) -> tuple[Int[np.ndarray, " Q"], Float[np.ndarray, " Q"]]:
    """Ranks the candidates of each query.

    Args:
        similarity: similarity of Q queries with X candidates; higher is better.
        relevant: whether a candidate is relevant to a query; each query has at least one.

    Returns:
        The 1-based rank of the best-ranked relevant candidate, and the average precision at 10.
    """
    return _rank(np.array(similarity), *np.nonzero(relevant))


def retrieval(
    audio: Float[np.ndarray, "N E"],
    text: Float[np.ndarray, "M E"],
    owner: Int[np.ndarray, " M"],
    captions: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 1_000,
) -> dict[str, Any]:
    """Scores retrieval in both directions, as the module's docstring defines it.

    Args:
        audio: unit embeddings of the whole clips.
        text: unit embeddings of all captions.
        owner: clip of each caption, 0..N-1; every clip owns at least one.
        captions: the texts, by which equal captions are recognised.
        seed: seed of the bootstrap.
        resamples: number of resamples of the bootstrap, over clips.

    Returns:
        `{t2a,a2t}_{r1,r5,r10,map10,medr}` with their `..._interval` ([low, high], 95 %), `chance_r1` (of T2A),
        `a2t_chance_r1`, `n_clips`, `n_captions`, `n_distinct_captions`, `captions_per_clip` ([fewest, most]).

    Raises:
        ValueError: the shapes do not match, or a clip has no caption.
    """
    owner = np.asarray(owner, np.int64)
    clips, texts = len(audio), len(text)
    if not len(owner) == len(captions) == texts:
        raise ValueError(f"{texts} text embeddings, but {len(owner)} owners and {len(captions)} captions")
    if clips == 0 or not np.array_equal(np.unique(owner), np.arange(clips)):
        raise ValueError(f"each of the {clips} clips must own a caption, and every owner must be one of 0..{clips - 1}")
    group = caption_groups(captions)

    relevance = _Relevance(owner, group)
    t2a = _rank_all(text, audio, relevance.clips_of)
    a2t = _rank_all(audio, text, relevance.captions_of)

    results: dict[str, Any] = {}
    for direction, ranked, clusters in (("t2a", t2a, owner), ("a2t", a2t, np.arange(clips))):
        rank, average_precision, _ = ranked
        values = np.stack([*(rank <= k for k in CUTOFFS), average_precision], axis=1).astype(np.float64)
        low, high = cluster_interval(values, clusters, seed=seed, resamples=resamples)
        for index, metric in enumerate(_METRICS):
            results[f"{direction}_{metric}"] = float(values[:, index].mean())
            results[f"{direction}_{metric}_interval"] = [float(low[index]), float(high[index])]
        results[f"{direction}_medr"] = float(np.median(rank))
        interval = cluster_median_interval(rank, clusters, seed=seed, resamples=resamples)
        results[f"{direction}_medr_interval"] = list(interval)
    results["chance_r1"] = float(t2a[2].mean())
    results["a2t_chance_r1"] = float(a2t[2].mean())
    results["n_clips"] = clips
    results["n_captions"] = texts
    results["n_distinct_captions"] = int(group.max()) + 1
    per_clip = np.bincount(owner)
    results["captions_per_clip"] = [int(per_clip.min()), int(per_clip.max())]
    return results


def _rank_all(
    queries: Float[np.ndarray, "Q E"],
    candidates: Float[np.ndarray, "X E"],
    relevant: Callable[[Int[np.ndarray, " q"]], tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]],
) -> tuple[Int[np.ndarray, " Q"], Float[np.ndarray, " Q"], Float[np.ndarray, " Q"]]:
    """Ranks all candidates for a chunk of queries at a time.

    Returns:
        Rank of the best-ranked relevant candidate, average precision at 10, and fraction of relevant candidates.
    """
    rank = np.empty(len(queries), np.int64)
    precision, fraction = np.empty(len(queries)), np.empty(len(queries))
    chunk = max(1, _CHUNK_ELEMENTS // len(candidates))
    for start in range(0, len(queries), chunk):
        part = slice(start, min(start + chunk, len(queries)))
        query, candidate = relevant(np.arange(part.start, part.stop))
        similarity = np.asarray(queries[part] @ candidates.T)
        rank[part], precision[part] = _rank(similarity, query, candidate)
        fraction[part] = np.bincount(query, minlength=len(similarity)) / len(candidates)
    return rank, precision, fraction


def _rank(
    similarity: Float[np.ndarray, "Q X"], query: Int[np.ndarray, " P"], candidate: Int[np.ndarray, " P"]
) -> tuple[Int[np.ndarray, " Q"], Float[np.ndarray, " Q"]]:
    """Implements `rank_queries` for the P relevant pairs, ordered by query; overwrites `similarity`.

    Only the relevant candidates are sorted. The rank of the i-th best of them is i plus the number of irrelevant
    candidates that are at least as similar. Ranks beyond 10 do not count, so of the irrelevant candidates only the ten
    most similar are needed.
    """
    if not np.isfinite(similarity).all():
        lowest, highest = np.finfo(similarity.dtype).min, np.finfo(similarity.dtype).max
        np.nan_to_num(similarity, copy=False, nan=lowest, posinf=highest, neginf=lowest)
    value = similarity[query, candidate]
    order = np.lexsort((-value, query))
    value = value[order]
    first = np.searchsorted(query, np.arange(len(similarity)))  # index of the best relevant candidate of each query
    count = np.bincount(query, minlength=len(similarity))
    similarity[query, candidate] = -np.inf  # leaves the irrelevant candidates
    best_rank = 1 + np.count_nonzero(similarity >= value[first][:, None], axis=1)
    width = similarity.shape[1]
    if width > _TOP:
        similarity.partition(width - _TOP, axis=1)
    top = similarity[:, -_TOP:]
    i = 1 + np.arange(len(query)) - first[query]
    query, value, i = (array[i <= _TOP] for array in (query, value, i))
    rank = i + np.count_nonzero(top[query] >= value[:, None], axis=1)
    precision = np.where(rank <= _TOP, i / rank, 0.0)
    return best_rank, np.bincount(query, precision, minlength=len(similarity)) / count


class _Relevance:
    """Which clips and captions are relevant to each other, as lists: a matrix of all pairs would not fit in memory."""

    def __init__(self, owner: Int[np.ndarray, " M"], group: Int[np.ndarray, " M"]):
        # A clip that owns a caption twice owns it once.
        pairs = np.unique(np.stack([group, owner], axis=1), axis=0)
        self._clips_of_group = _Lists(pairs[:, 0], pairs[:, 1], int(group.max()) + 1)
        self._groups_of_clip = _Lists(pairs[:, 1], pairs[:, 0], int(owner.max()) + 1)
        self._captions_of_group = _Lists(group, np.arange(len(group)), int(group.max()) + 1)
        self._group = group

    def clips_of(self, captions: Int[np.ndarray, " q"]) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
        """Returns the relevant pairs (index in `captions`, clip), ordered by the former."""
        return self._clips_of_group.of(self._group[captions])

    def captions_of(self, clips: Int[np.ndarray, " q"]) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
        """Returns the relevant pairs (index in `clips`, caption), ordered by the former."""
        index, group = self._groups_of_clip.of(clips)
        inner, caption = self._captions_of_group.of(group)
        return index[inner], caption


class _Lists:
    """A list of integers for each of some keys."""

    def __init__(self, keys: Int[np.ndarray, " P"], values: Int[np.ndarray, " P"], count: int):
        order = np.argsort(keys, kind="stable")
        self._values = values[order]
        self._start = np.searchsorted(keys[order], np.arange(count + 1))

    def of(self, keys: Int[np.ndarray, " q"]) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
        """Concatenates the lists of some keys; returns the index into `keys` of each value, and the values."""
        lengths = self._start[keys + 1] - self._start[keys]
        index = np.repeat(np.arange(len(keys)), lengths)
        within = np.arange(len(index)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return index, self._values[self._start[keys][index] + within]
