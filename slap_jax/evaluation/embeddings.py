"""Vectors of whole evaluation sets: clips are decoded some at a time, so that memory holds vectors and not samples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from slap_jax.data.evaluation_set import waveform_chunks
from slap_jax.evaluation.task import EvaluationTask


class Embeds(Protocol):
    """What evaluation wants of a model: `slap_jax.inference.embedder.Embedder`, or anything with the same functions.

    Attributes:
        per_column: samples of a column, the step of `frames` and `frame_embeddings`.
    """

    per_column: int

    def audio(self, params: Any, waveforms: Sequence[np.ndarray], /) -> Float[np.ndarray, "N E"]:
        """Unit vectors of whole clips."""
        ...

    def text(self, params: Any, captions: Sequence[Sequence[int]], /) -> Float[np.ndarray, "M E"]:
        """Unit vectors of token ids."""
        ...

    def frames(self, params: Any, waveforms: Sequence[np.ndarray], /) -> list[Float[np.ndarray, "c D"]]:
        """Features of each column, before pooling."""
        ...

    def frame_embeddings(self, params: Any, waveforms: Sequence[np.ndarray], /) -> list[Float[np.ndarray, "c E"]]:
        """Unit vectors of each column, comparable with texts."""
        ...


Progress = Callable[[str, int, int], None]  # name of the set, clips done, clips in all

_TEXTS_AT_ONCE = 8_192


def clip_vectors(
    functions: Sequence[Callable[[list[np.ndarray]], np.ndarray]],
    task: EvaluationTask,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Applies functions to all clips of a set.

    Args:
        functions: waveforms to as many vectors each.
        task: whose clips.
        progress: called after every part.

    Returns:
        For each function fp32 [N, ...].
    """
    found: list[list[np.ndarray]] = [[] for _ in functions]
    done = 0
    for chunk, waveforms in waveform_chunks(task.clips, task.samples):
        for function, parts in zip(functions, found, strict=True):
            parts.append(np.asarray(function(waveforms), np.float32))
        done += len(chunk)
        if progress:
            progress(task.name, done, len(task.clips))
    return [np.concatenate(parts) for parts in found]


def text_vectors(
    embedder: Embeds, params: Mapping[str, Any], task: EvaluationTask, texts: Sequence[str]
) -> Float[np.ndarray, "M E"]:
    """Embeds texts; the token ids of some are in memory at a time."""
    parts = [
        embedder.text(params, task.encode(texts[start : start + _TEXTS_AT_ONCE]))
        for start in range(0, len(texts), _TEXTS_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else embedder.text(params, [])
