"""Embeds whole evaluation sets. Clips are decoded a chunk at a time: memory holds vectors, not samples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from slap_jax.data.evaluation_set import waveform_chunks
from slap_jax.evaluation.clip_set import ClipSet

_TEXTS_AT_ONCE = 8_192

Progress = Callable[[str, int, int], None]  # name of the set, clips done, clips in all


class Embeds(Protocol):
    """The part of `slap_jax.inference.embedder.Embedder` that evaluation calls.

    Attributes:
        per_column: samples per column, the step of `frames` and `frame_embeddings`; 0 for a model without them.
    """

    per_column: int

    def audio(self, params: Any, waveforms: Sequence[np.ndarray], /) -> Float[np.ndarray, "N E"]:
        """Returns unit vectors of whole clips."""
        ...

    def text(self, params: Any, captions: Sequence[Any], /) -> Float[np.ndarray, "M E"]:
        """Returns unit vectors of texts as `ClipSet.encode` returns them."""
        ...

    def frames(self, params: Any, waveforms: Sequence[np.ndarray], /) -> list[Float[np.ndarray, "c D"]]:
        """Returns features of each column, before pooling."""
        ...

    def frame_embeddings(self, params: Any, waveforms: Sequence[np.ndarray], /) -> list[Float[np.ndarray, "c E"]]:
        """Returns unit vectors of each column, comparable with text embeddings."""
        ...


def clip_vectors(
    functions: Sequence[Callable[[list[np.ndarray]], np.ndarray]], data: ClipSet, progress: Progress | None = None
) -> list[Float[np.ndarray, "N X"]]:
    """Applies functions to the waveforms of all clips, decoding each clip once.

    Args:
        functions: waveforms -> one vector each.
        data: the set.
        progress: called after every chunk.

    Returns:
        The result of each function, in the order of the clips.
    """
    results: list[list[np.ndarray]] = [[] for _ in functions]
    done = 0
    for chunk, waveforms in waveform_chunks(data.clips, data.samples):
        for function, parts in zip(functions, results, strict=True):
            parts.append(np.asarray(function(waveforms), np.float32))
        done += len(chunk)
        if progress:
            progress(data.name, done, len(data.clips))
    return [np.concatenate(parts) for parts in results]


def text_vectors(
    embedder: Embeds, params: Mapping[str, Any], data: ClipSet, texts: Sequence[str]
) -> Float[np.ndarray, "M E"]:
    """Embeds texts, with the token ids of at most `_TEXTS_AT_ONCE` in memory."""
    parts = [
        embedder.text(params, data.encode(texts[start : start + _TEXTS_AT_ONCE]))
        for start in range(0, len(texts), _TEXTS_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else embedder.text(params, [])
