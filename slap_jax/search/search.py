"""Finds the moments of indexed recordings that match a text, a sound, or both."""

import dataclasses
import os
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.inference.audio_input import Audio
from slap_jax.inference.protocol import EmbeddingModel
from slap_jax.search.index import LanceError, SearchError, SearchIndex

# Bounds the error of a score that LanceDB computes: in float32, and with the query rounded to float16.
_ROUNDING = {"float32": 1e-4, "float16": 1e-3}


@dataclasses.dataclass(frozen=True)
class Hit:
    """A moment that matches a query.

    Attributes:
        path: Path of the recording.
        start: Start of the moment in seconds.
        end: End of the moment in seconds.
        score: Cosine similarity, -1 to 1.
    """

    path: str
    start: float
    end: float
    score: float


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
        model: The model that the index was made with.
        index: An open index, or the path of an index or of the folder that contains it. An open index is refreshed.
        text: Text to search for.
        audio: Clip to search for. With a text as well, the query is the mean of the two embeddings.
        k: Largest number of hits.
        per_file: Largest number of hits in one file; None for no limit.
        approximate: Compare only with the windows that the vector index proposes.

    Returns:
        Hits in the order of `best_hits`.

    Raises:
        SearchError: There is no query, `k` or `per_file` is below 1, there is no index, another model made it, or it
            has no vector index for `approximate`.
        TextError: The text is empty.
        AudioError: The clip cannot be read.
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
    try:
        return _search_newest(model, index, query, k, per_file, approximate)
    except LanceError:  # perhaps an update removed the version that was being read
        return _search_newest(model, index, query, k, per_file, approximate)


def best_hits(
    index: SearchIndex, query: Float[np.ndarray, " E"], k: int, per_file: int | None = None, approximate: bool = False
) -> list[Hit]:
    """Finds the k best moments, none of which overlaps a better one of the same file.

    Windows of a recording overlap, so the neighbours of a good window score nearly as well and say nothing new.

    Args:
        index: Index to search.
        query: Unit vector.
        k: Largest number of hits.
        per_file: Largest number of hits in one file; None for no limit.
        approximate: Compare only with the windows that the vector index proposes.

    Returns:
        Hits by decreasing score; equal scores by path, then by start. The score is the cosine similarity in float32.
        Files with the same bytes have a hit each.

    Raises:
        SearchError: The index has no vector index for `approximate`, or is damaged.
    """
    if approximate and not index.has_vector_index:
        raise SearchError(
            f"{index.path} has no index for approximate search: make it with `slap index FOLDER --model DIR "
            "--approximate`"
        )
    approximate = approximate and bool(np.any(query))  # a zero vector has no cosine
    rounding = _ROUNDING[index.settings.number_type]
    count = (8 if approximate else 4) * k + 60
    while True:
        windows = index.nearest(query, count, approximate)
        vectors = windows["vector"].combine_chunks().flatten().to_numpy().reshape(len(windows), len(query))
        scores = np.einsum("ne,e->n", vectors, query, dtype=np.float64).astype(np.float32)
        hits = _without_overlap(index, windows, scores, k, per_file)
        exhausted = len(windows) < count
        if len(hits) == k and (approximate or exhausted or hits[-1].score > scores.min() + rounding):
            return hits  # no window that was not fetched can score as high
        if exhausted and not approximate:
            return hits
        if exhausted:
            approximate = False  # the partitions that were compared hold too few moments
        count *= 4


def _without_overlap(
    index: SearchIndex, windows: Any, scores: Float[np.ndarray, " n"], k: int, per_file: int | None
) -> list[Hit]:
    columns = (windows[name].to_pylist() for name in ("content", "start", "end"))
    ranked = sorted(
        (-score, path, start, end)
        for score, content, start, end in zip(scores.tolist(), *columns, strict=True)
        for path in index.paths_of_content.get(content, ())  # none if the files are gone
    )
    taken: dict[str, list[tuple[float, float]]] = {}
    hits: list[Hit] = []
    for score, path, start, end in ranked:
        moments = taken.setdefault(path, [])
        if per_file is not None and len(moments) >= per_file:
            continue
        if any(start < other_end and other_start < end for other_start, other_end in moments):
            continue
        moments.append((start, end))
        hits.append(Hit(str(index.root / path), start, end, -score))
        if len(hits) == k:
            break
    return hits


def _search_newest(model: EmbeddingModel, index: SearchIndex, *arguments: Any) -> list[Hit]:
    index.refresh()
    index.check_model(model.model_id, model.embed_dim)
    return best_hits(index, *arguments)


def _query(model: EmbeddingModel, text: str | None, audio: Audio | None) -> Float[np.ndarray, " E"]:
    parts = []
    if text is not None:
        parts.append(model.embed_text([text])[0])
    if audio is not None:
        parts.append(model.embed_audio(audio)[0])  # of a list, errors would name a number
    mean = np.mean(parts, axis=0)
    # Opposite vectors have no mean direction; the zero vector matches everything equally.
    return mean / max(float(np.linalg.norm(mean)), 1e-12)
