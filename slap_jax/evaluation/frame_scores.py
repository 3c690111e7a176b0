"""Texts scored over time: does a text fit the seconds that it describes better than others? Segment AUROC.

A clip is cut into segments of one second; the score of a text in a segment is the mean cosine similarity of the columns
whose middle lies in it, and the segment is positive if a region with that text overlaps it.

- `by="class"`: the texts are those of all regions of the set, such as the sounds of AudioSet's strong labels. For each
  text the area under the ROC curve over all segments of all clips with regions; the result is their mean.
- `by="region"`: texts are sentences that occur once. For each clip and text of its regions the area over the segments
  of the clip, where some are positive and some are not; the result is their mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from slap_jax.data.audio import SAMPLE_RATE
from slap_jax.data.evaluation_set import Region, waveform_chunks
from slap_jax.evaluation.embeddings import Embeds, Progress, text_vectors
from slap_jax.evaluation.intervals import areas_under_roc, cluster_interval, resampled_mean
from slap_jax.evaluation.task import EvaluationTask

SEGMENT_SECONDS = 1.0
_CLASS_TEXTS = 1_000  # more texts than this, or most of them used once: sentences
_RESAMPLED_VALUES = 2_000_000_000  # bounds the time of the bootstrap over segments


def frame_scores(
    embedder: Embeds,
    params: Mapping[str, Any],
    task: EvaluationTask,
    *,
    seed: int = 0,
    resamples: int = 1_000,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Segment AUROC of a set with regions; the module's docstring defines it.

    Args:
        embedder: of the model.
        params: of the model.
        task: whose clips have regions; those without take no part.
        seed: of the bootstrap over clips.
        resamples: of the bootstrap; fewer where that would take long.
        progress: called after every part.

    Returns:
        `auroc`, `interval` ([low, high], 95 %), `chance` (0.5), `by`, `n_clips`, `n_segments`, `n_texts` (all),
        `n_scored` (those with positive and negative segments), `segment_seconds`, `resamples`.
    """
    wanted = [clip for clip, regions in enumerate(task.regions) if regions]
    texts = sorted({text for regions in task.regions for _, _, text in regions})
    uses = sum(len({text for _, _, text in regions}) for regions in task.regions)
    by = "class" if len(texts) <= _CLASS_TEXTS and uses > 1.5 * len(texts) else "region"
    vectors = text_vectors(embedder, params, task, texts)
    place = {text: number for number, text in enumerate(texts)}
    scores: list[np.ndarray] = []
    truths: list[np.ndarray] = []
    clips: list[int] = []
    for clip, columns in _columns(embedder, params, task, wanted, progress):
        regions = task.regions[clip]
        own = range(len(texts)) if by == "class" else sorted({place[text] for _, _, text in regions})
        spans = segments(task.samples[clip] / SAMPLE_RATE, len(columns), embedder.per_column / SAMPLE_RATE)
        score = np.stack([(columns[first:last] @ vectors[own].T).mean(axis=0) for first, last, _ in spans])
        truth = positives(regions, [second for _, _, second in spans], [texts[text] for text in own])
        scores.append(score)
        truths.append(truth)
        clips.extend([clip] * len(spans))
    about = {
        "chance": 0.5,
        "by": by,
        "n_clips": len(wanted),
        "n_segments": len(clips),
        "n_texts": len(texts),
        "segment_seconds": SEGMENT_SECONDS,
    }
    if by == "region":
        return {**_by_region(scores, truths, seed, resamples), **about}
    return {**_by_class(np.concatenate(scores), np.concatenate(truths), np.array(clips), seed, resamples), **about}


def _columns(
    embedder: Embeds,
    params: Mapping[str, Any],
    task: EvaluationTask,
    wanted: Sequence[int],
    progress: Progress | None,
) -> Iterator[tuple[int, Float[np.ndarray, "c E"]]]:
    done = 0
    for chunk, waveforms in waveform_chunks(task.clips, task.samples, wanted):
        yield from zip(chunk, embedder.frame_embeddings(params, waveforms), strict=True)
        done += len(chunk)
        if progress:
            progress(task.name, done, len(wanted))


def segments(seconds: float, columns: int, column_seconds: float) -> list[tuple[int, int, int]]:
    """The segments of a clip that have columns: (first column, one past the last, the second that it starts at)."""
    middle = (np.arange(columns) + 0.5) * column_seconds
    second = np.minimum(middle, max(seconds - 1e-6, 0.0)) // SEGMENT_SECONDS  # padding belongs to the last second
    starts = np.flatnonzero(np.diff(second, prepend=-1))
    ends = np.append(starts[1:], columns)
    return [(int(first), int(last), int(second[first])) for first, last in zip(starts, ends, strict=True)]


def positives(regions: Sequence[Region], seconds: Sequence[int], texts: Sequence[str]) -> Bool[np.ndarray, "S X"]:
    """Whether a region with a text overlaps a segment.

    Args:
        regions: of the clip.
        seconds: at which the segments start.
        texts: distinct.
    """
    place = {text: number for number, text in enumerate(texts)}
    start = np.asarray(seconds) * SEGMENT_SECONDS
    truth = np.zeros((len(seconds), len(texts)), bool)
    for onset, offset, text in regions:
        truth[:, place[text]] |= (start < offset) & (start + SEGMENT_SECONDS > onset)
    return truth


def _by_class(
    scores: Float[np.ndarray, "S X"],
    truth: Bool[np.ndarray, "S X"],
    clips: np.ndarray,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    scored = truth.any(axis=0) & ~truth.all(axis=0)
    resamples = max(20, min(resamples, _RESAMPLED_VALUES // max(1, scores.size)))
    if not scored.any():
        return {"auroc": 0.5, "interval": [0.5, 0.5], "n_scored": 0, "resamples": 0}
    _, clusters = np.unique(clips, return_inverse=True)
    value, low, high = resampled_mean(
        areas_under_roc, scores[:, scored], truth[:, scored], clusters, seed=seed, resamples=resamples
    )
    return {"auroc": value, "interval": [low, high], "n_scored": int(scored.sum()), "resamples": resamples}


def _by_region(
    scores: Sequence[Float[np.ndarray, "s x"]], truths: Sequence[Bool[np.ndarray, "s x"]], seed: int, resamples: int
) -> dict[str, Any]:
    areas, owners = [], []
    for clip, (score, truth) in enumerate(zip(scores, truths, strict=True)):
        for text in np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0)):
            areas.append(areas_under_roc(score[:, text], truth[:, text], np.ones((1, len(score))))[0])
            owners.append(clip)
    if not areas:
        return {"auroc": 0.5, "interval": [0.5, 0.5], "n_scored": 0, "resamples": 0}
    values = np.array(areas)[:, None]
    low, high = cluster_interval(values, np.array(owners), seed=seed, resamples=resamples)
    interval = [float(low[0]), float(high[0])]
    return {"auroc": float(values.mean()), "interval": interval, "n_scored": len(areas), "resamples": resamples}
