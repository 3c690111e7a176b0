"""Audio-text retrieval as WavCaps defines it, with equal captions counted as hits.

Definitions, over a whole evaluation set of N clips with M captions:

- **T2A**: every caption is a query, every clip a candidate. **A2T**: every clip is a query, every caption a candidate.
- Captions are *equal* when they agree after `strip()` and `casefold()`. A clip and a caption are *relevant* to each
  other when the clip owns a caption equal to it. Without equal captions that is ownership, hence WavCaps exactly.
- R@k: share of the queries whose best-ranked relevant candidate is among the first k.
- mAP@10: mean over the queries of `sum over relevant candidates in the top 10 of (i / rank of the i-th of them)`,
  divided by **all** relevant candidates of the query, found or not (`map_cut_10` of trec_eval). Without equal captions
  the divisor is 1 for T2A and the number of the clip's captions for A2T.
- medR: median over the queries of the 1-based rank of the best-ranked relevant candidate.
- Ties are pessimistic: among equal similarities the irrelevant candidates come first, so a constant similarity earns
  nothing. A similarity that is not a number ranks last.
- Chance of R@1: mean over the queries of the share of candidates that are relevant.

Source of the definition: Mei et al., WavCaps (arXiv 2303.17395), `retrieval/tools/utils.py` of its repository.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from slap_jax.evaluation.bootstrap import cluster_interval

CUTOFFS = (1, 5, 10)
_METRICS = ("r1", "r5", "r10", "map10")
_CHUNK_ELEMENTS = 4_000_000  # similarities ranked at a time


def caption_groups(captions: Sequence[str]) -> Int[np.ndarray, " M"]:
    """Numbers the captions so that equal ones (after `strip` and `casefold`) share a number."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(caption.strip().casefold(), len(numbers)) for caption in captions], np.int64)


def rank_queries(
    similarity: Float[np.ndarray, "Q X"], relevant: Bool[np.ndarray, "Q X"]
) -> tuple[Int[np.ndarray, " Q"], Float[np.ndarray, " Q"]]:
    """Ranks the candidates of each query.

    Args:
        similarity: of Q queries with X candidates; higher is better.
        relevant: at least one candidate per query.

    Returns:
        The 1-based rank of the best-ranked relevant candidate, and the average precision at 10.
    """
    similarity = np.where(np.isnan(similarity), -np.inf, similarity)
    best = np.where(relevant, similarity, -np.inf).max(axis=1, keepdims=True)
    best_rank = 1 + np.sum(~relevant & (similarity >= best), axis=1)
    top = np.lexsort((relevant, -similarity), axis=-1)[:, :10]  # ties: irrelevant (False) first
    hit = np.take_along_axis(relevant, top, axis=1)
    precision = np.cumsum(hit, axis=1) / np.arange(1, hit.shape[1] + 1)
    average_precision = np.sum(precision * hit, axis=1) / relevant.sum(axis=1)
    return best_rank, average_precision


def _ownership(
    owner: Int[np.ndarray, " M"], group: Int[np.ndarray, " M"], clips: int, wanted: Int[np.ndarray, " X"]
) -> Bool[np.ndarray, "N X"]:
    """Whether clip n owns a caption of group `wanted[x]`."""
    distinct, inverse = np.unique(wanted, return_inverse=True)
    place = np.searchsorted(distinct, group)
    place = np.minimum(place, len(distinct) - 1)
    known = distinct[place] == group
    owned = np.zeros((clips, len(distinct)), bool)
    owned[owner[known], place[known]] = True
    return owned[:, inverse]


def retrieval(
    audio: Float[np.ndarray, "N E"],
    text: Float[np.ndarray, "M E"],
    owner: Int[np.ndarray, " M"],
    captions: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 1_000,
) -> dict[str, Any]:
    """Retrieval in both directions; the module's docstring defines every number.

    Args:
        audio: unit embeddings of the clips, one each for the full clip.
        text: unit embeddings of all captions.
        owner: the clip of each caption, 0..N-1; every clip owns at least one.
        captions: the texts, from which equal captions are found.
        seed: of the bootstrap.
        resamples: of the bootstrap, over clips.

    Returns:
        `{t2a,a2t}_{r1,r5,r10,map10}` with their `..._interval` ([low, high], 95 %), `{t2a,a2t}_medr`, `chance_r1` (of
        T2A), `a2t_chance_r1`, `n_clips`, `n_captions`, `n_distinct_captions`.

    Raises:
        ValueError: shapes that do not fit, or a clip without a caption.
    """
    owner = np.asarray(owner, np.int64)
    clips, texts = len(audio), len(text)
    if not len(owner) == len(captions) == texts:
        raise ValueError(f"{texts} text embeddings, but {len(owner)} owners and {len(captions)} captions")
    if clips == 0 or not np.array_equal(np.unique(owner), np.arange(clips)):
        raise ValueError(f"each of the {clips} clips must own a caption, and every owner must be one of 0..{clips - 1}")
    group = caption_groups(captions)

    chunk = max(1, _CHUNK_ELEMENTS // clips)
    t2a, t2a_chance = [], []
    for start in range(0, texts, chunk):
        queries = slice(start, start + chunk)
        relevant = _ownership(owner, group, clips, group[queries]).T
        t2a.append(rank_queries(text[queries] @ audio.T, relevant))
        t2a_chance.append(relevant.mean(axis=1))

    chunk = max(1, _CHUNK_ELEMENTS // texts)
    a2t, a2t_chance = [], []
    for start in range(0, clips, chunk):
        queries = slice(start, start + chunk)
        inside = (owner >= start) & (owner < start + chunk)
        count = len(audio[queries])
        relevant = _ownership(owner[inside] - start, group[inside], count, group)
        a2t.append(rank_queries(audio[queries] @ text.T, relevant))
        a2t_chance.append(relevant.mean(axis=1))

    results: dict[str, Any] = {}
    for direction, parts, clusters in (("t2a", t2a, owner), ("a2t", a2t, np.arange(clips))):
        rank, average_precision = (np.concatenate(part) for part in zip(*parts, strict=True))
        values = np.stack([*(rank <= k for k in CUTOFFS), average_precision], axis=1).astype(np.float64)
        low, high = cluster_interval(values, clusters, seed=seed, resamples=resamples)
        for index, metric in enumerate(_METRICS):
            results[f"{direction}_{metric}"] = float(values[:, index].mean())
            results[f"{direction}_{metric}_interval"] = [float(low[index]), float(high[index])]
        results[f"{direction}_medr"] = float(np.median(rank))
    results["chance_r1"] = float(np.concatenate(t2a_chance).mean())
    results["a2t_chance_r1"] = float(np.concatenate(a2t_chance).mean())
    results["n_clips"] = clips
    results["n_captions"] = texts
    results["n_distinct_captions"] = int(group.max()) + 1
    return results
