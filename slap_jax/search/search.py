"""From the scores of windows to the moments that are shown.

A graph of neighbours (HNSW, by usearch) beside the vectors: millions of windows without looking at each.

It only proposes rows. Their scores are computed exactly, and rows that it does not know yet are all looked at, so an
update that was cut off costs time and no results.

The moments of indexed recordings that fit a text, a sound, or both.

What a search asks of a model.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from tqdm import tqdm

from slap_jax.atomic import atomic_file
from slap_jax.inference.audio_input import Audio
from slap_jax.inference.long_audio import Windows
from slap_jax.search.index import SearchError, SearchIndex

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


_ADDED_AT_ONCE = 1 << 14
_LOOKED_AT = 128  # at least, by a search of the graph


def build_graph(index: Path, progress: bool | None = None) -> None:
    """Brings the graph of an index up to date, by adding the rows that it lacks.

    Args:
        index: locked by the caller.
        progress: whether to show a bar; None to show it on a terminal.

    Raises:
        SearchError: usearch is not installed.
    """
    found = SearchIndex(index)
    file = index / found.manifest.graph_file
    graph = _new_graph(found.manifest.embed_dim)
    if file.is_file():
        try:
            graph.load(str(file))
        except RuntimeError:  # damaged: made anew from the vectors
            graph = _new_graph(found.manifest.embed_dim)
    rows = found.manifest.rows
    if len(graph) == rows == found.manifest.approximate_rows:
        return
    with tqdm(total=rows, initial=len(graph), desc="graph", unit=" windows", disable=_hidden(progress)) as bar:
        for start in range(len(graph), rows, _ADDED_AT_ONCE):
            stop = min(start + _ADDED_AT_ONCE, rows)
            graph.add(np.arange(start, stop, dtype=np.uint64), found.vectors[start:stop].astype(np.float32))
            bar.update(stop - start)
    with atomic_file(file) as partial:
        graph.save(str(partial))
    dataclasses.replace(found.manifest, approximate_rows=rows).write(index)


def approximate_hits(
    index: SearchIndex, query: Float[np.ndarray, " E"], k: int, per_file: int | None = None
) -> list[Hit]:
    """As `exact_hits`, of the windows that the graph proposes.

    Raises:
        SearchError: the index has no graph, or usearch is not installed.
    """
    known = index.manifest.approximate_rows
    if known == 0:
        raise SearchError(f"{index.path} has no graph: make it with `slap index FOLDER --model DIR --approximate`")
    graph = _new_graph(index.manifest.embed_dim)
    file = index.path / index.manifest.graph_file
    try:
        graph.view(str(file))  # read from disk as it is needed
    except (RuntimeError, OSError) as error:
        raise SearchError(f"{file} cannot be read ({error}); delete it and run `slap index` again") from error
    if len(graph) < known:
        raise SearchError(f"{file} holds {len(graph)} windows of {known}; delete it and run `slap index` again")
    newer = np.arange(known, index.manifest.rows)
    newer_scores = all_scores(index, query, known)
    count = 8 * k + 64
    while count < known:
        proposed = _proposed(graph, query, count, known)
        scores = index.vectors[proposed].astype(np.float32) @ np.asarray(query, np.float32)
        rows, scores = np.concatenate([proposed, newer]), np.concatenate([scores, newer_scores])
        hits = best_hits(index, rows, scores, k, per_file)
        if len(hits) >= k:
            return hits
        count *= 4
    return exact_hits(index, query, k, per_file)


def _proposed(graph: Any, query: Float[np.ndarray, " E"], count: int, known: int) -> Int[np.ndarray, " m"]:
    """Rows that the graph holds to be near; it may know some that the manifest does not count yet."""
    graph.expansion_search = max(_LOOKED_AT, 2 * count)
    keys = np.asarray(graph.search(np.asarray(query, np.float32), count).keys).astype(np.int64)
    return np.unique(keys[keys < known])


def _new_graph(embed_dim: int) -> Any:
    try:
        from usearch.index import Index
    except ImportError:
        raise SearchError(
            "--approximate needs usearch, which is missing: pip install 'slap-jax[search]', or search without it"
        ) from None
    return Index(ndim=embed_dim, metric="ip", dtype="f16")


def _hidden(progress: bool | None) -> bool | None:
    return None if progress is None else not progress


class EmbeddingModel(Protocol):
    """`slap_jax.inference.model.SlapModel`, or another that embeds sound and text alike."""

    @property
    def config(self) -> Any:
        """With `audio.sample_rate` in Hz."""

    @property
    def embed_dim(self) -> int:
        """E, the size of the vectors."""
        ...

    @property
    def model_id(self) -> Any:
        """A short name, a string that changes with whatever changes what vectors mean."""
        ...

    def embed_audio(self, audio: Sequence[Any], /) -> Float[ndarray, "n E"]:
        """Embeds clips as unit vectors."""
        ...

    def embed_text(self, texts: Sequence[str], /) -> Float[ndarray, "m E"]:
        """Embeds texts as unit vectors."""
        ...

    def windows(self, clip: Any, /, *, seconds: float, hop: float) -> Windows:
        """Embeds overlapping windows of one recording."""
        ...


def search(
    model: EmbeddingModel,
    index: SearchIndex | str | os.PathLike[str],
    text: str | None = None,
    audio: Audio | None = None,
    k: int = 10,
    per_file: int | None = None,
    approximate: bool = False,
) -> list[Hit]:
    """Searches an index.

    Args:
        model: that the index was made with.
        index: opened, or a path of it or of the folder that it lies in.
        text: what is to be heard.
        audio: a clip that the moments shall resemble; with a text too, the mean of the two vectors is looked for.
        k: the most hits.
        per_file: the most hits of one file; None for no limit.
        approximate: look only at what the graph of neighbours proposes, instead of at everything.

    Returns:
        Hits, the best first; of overlapping windows of a file only the best.

    Raises:
        SearchError: no query, a `k` below 1, no index, one of another model, or without a graph for `approximate`.
        TextError: a text without content.
        AudioError: a clip that cannot be read.
    """
    if text is None and audio is None:
        raise SearchError("there is nothing to search for: give a text, a recording, or both")
    for name, value in (("k", k), ("per_file", per_file)):
        if value is not None and value < 1:
            raise SearchError(f"{name} is {value}; expected at least 1")
    if not isinstance(index, SearchIndex):
        index = SearchIndex(os.fspath(index))
    index.check_model(model.model_id, model.embed_dim)
    query = _query(model, text, audio)
    if approximate:
        return approximate_hits(index, query, k, per_file)
    return exact_hits(index, query, k, per_file)


def _query(model: EmbeddingModel, text: str | None, audio: Audio | None) -> Float[np.ndarray, " E"]:
    parts = []
    if text is not None:
        parts.append(model.embed_text([text])[0])
    if audio is not None:
        parts.append(model.embed_audio([audio])[0])
    mean = np.mean(parts, axis=0)
    # Exactly opposite vectors have no mean direction; they match nothing in particular.
    return mean / max(float(np.linalg.norm(mean)), 1e-12)
