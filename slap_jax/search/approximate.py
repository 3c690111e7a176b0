"""A graph of neighbours (HNSW, by usearch) beside the vectors: millions of windows without looking at each.

It only proposes rows. Their scores are computed exactly, and rows that it does not know yet are all looked at, so an
update that was cut off costs time and no results.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from slap_jax.data.atomic_file import atomic_file
from slap_jax.search.hits import Hit, all_scores, best_hits, exact_hits
from slap_jax.search.manifest import SearchError
from slap_jax.search.reader import SearchIndex

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
