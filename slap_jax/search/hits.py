"""From the scores of windows to the moments that are shown."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from slap_jax.search.reader import SearchIndex

_CHUNK_ROWS = 1 << 15


@dataclasses.dataclass(frozen=True)
class Hit:
    """A moment that fits a query.

    Attributes:
        path: of the recording.
        start: of the moment, in seconds.
        end: of the moment.
        score: cosine similarity, -1 to 1.
    """

    path: str
    start: float
    end: float
    score: float


def exact_hits(index: SearchIndex, query: Float[np.ndarray, " E"], k: int, per_file: int | None = None) -> list[Hit]:
    """Compares a unit vector with every window of an index.

    Returns:
        The best hits; see `best_hits`.
    """
    return best_hits(index, np.arange(index.manifest.rows), all_scores(index, query), k, per_file)


def all_scores(index: SearchIndex, query: Float[np.ndarray, " E"], first: int = 0) -> Float[np.ndarray, " n"]:
    """Compares a query with every vector, from disk, a chunk at a time.

    Args:
        index: to search.
        query: unit vector.
        first: row to begin with.

    Returns:
        fp32 cosine similarity of the rows from `first` on.
    """
    query = np.asarray(query, np.float32)
    scores = np.empty(index.manifest.rows - first, np.float32)
    for start in range(0, len(scores), _CHUNK_ROWS):
        chunk = index.vectors[first + start : first + start + _CHUNK_ROWS]
        scores[start : start + len(chunk)] = chunk.astype(np.float32, copy=False) @ query
    return scores


def best_hits(
    index: SearchIndex,
    rows: Int[np.ndarray, " m"],
    scores: Float[np.ndarray, " m"],
    k: int,
    per_file: int | None = None,
) -> list[Hit]:
    """Chooses the k best moments, none of which overlaps a better one of the same file.

    Windows of a recording overlap, so the neighbours of a good one are nearly as good and tell nothing new.

    Args:
        index: that the rows belong to.
        rows: numbers of its vectors; those whose file is gone are passed over.
        scores: of these.
        k: the most hits.
        per_file: the most hits of one file; None for no limit.

    Returns:
        Hits, the best first; equal scores in the order of path and time. Files with the same bytes have a hit each.
    """
    content_of_row, paths = index.content_of_row, index.paths_of_content
    present = content_of_row[rows] >= 0
    rows, scores = rows[present], scores[present]
    wanted = 4 * k + 60
    while True:
        looked_at = _best(scores, wanted)
        ranked = sorted(
            (-float(scores[i]), paths[content_of_row[rows[i]]][0], *index.times[rows[i]].tolist(), i) for i in looked_at
        )
        hits = _without_overlap(index, rows, ranked, k, per_file)
        if len(hits) >= k or len(looked_at) == len(scores):
            return hits[:k]
        wanted *= 4


def _best(scores: Float[np.ndarray, " m"], wanted: int) -> Int[np.ndarray, " w"]:
    """Places of at least the `wanted` best scores, all that equal the last of them too."""
    if wanted >= len(scores):
        return np.arange(len(scores))
    threshold = np.partition(scores, len(scores) - wanted)[len(scores) - wanted]
    return np.flatnonzero(scores >= threshold)


def _without_overlap(
    index: SearchIndex,
    rows: Int[np.ndarray, " m"],
    ranked: Sequence[tuple[float, str, float, float, int]],
    k: int,
    per_file: int | None,
) -> list[Hit]:
    taken: dict[int, list[tuple[float, float]]] = {}
    hits: list[Hit] = []
    for score, _, start, end, place in ranked:
        content = int(index.content_of_row[rows[place]])
        moments = taken.setdefault(content, [])
        if per_file is not None and len(moments) >= per_file:
            continue
        if any(start < other_end and other_start < end for other_start, other_end in moments):
            continue
        moments.append((start, end))
        hits.extend(Hit(str(index.root / path), start, end, -score) for path in index.paths_of_content[content])
        if len(hits) >= k:
            break
    return hits
