"""The moments of indexed recordings that fit a text, a sound, or both."""

import os

import numpy as np
from jaxtyping import Float

from slap_jax.inference.audio_input import Audio
from slap_jax.search.embedding_model import EmbeddingModel
from slap_jax.search.hits import Hit, exact_hits
from slap_jax.search.manifest import SearchError
from slap_jax.search.reader import SearchIndex


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
        from slap_jax.search.approximate import approximate_hits

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
