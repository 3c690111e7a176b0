"""Segment AUROC: does a text fit the seconds that it describes better than other seconds?

A clip is cut into segments of one second. The score of a text in a segment is the mean cosine similarity of the columns
whose centre is in the segment. The segment is positive if a region with that text overlaps it.

- `by="class"`: the same texts recur, such as the sounds of AudioSet's strong labels. The result is the mean over texts
  of the area under the ROC curve over all segments of all clips with regions.
- `by="region"`: the texts are sentences that occur once. The result is the mean, over the texts of all clips that have
  both positive and negative segments, of the area over the segments of their clip.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from slap_jax.data.audio import SAMPLE_RATE
from slap_jax.data.evaluation_set import Region, waveform_chunks
from slap_jax.evaluation.clip_set import ClipSet
from slap_jax.evaluation.embeddings import Embeds, Progress, text_vectors
from slap_jax.evaluation.intervals import areas_under_roc, cluster_interval, resampled_mean

SEGMENT_SECONDS = 1.0
_CLASS_TEXTS = 1_000  # texts are classes up to this number, if most of them recur
_RESAMPLED_VALUES = 2_000_000_000  # limits the time of the bootstrap over segments


def frame_scores(
    embedder: Embeds,
    params: Mapping[str, Any],
    data: ClipSet,
    *,
    seed: int = 0,
    resamples: int = 1_000,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Computes the segment AUROC of a set, as the module's docstring defines it.

    Args:
        embedder: embedder of the model.
        params: parameters of the model.
        data: the set; clips without regions take no part.
        seed: seed of the bootstrap over clips.
        resamples: number of resamples of the bootstrap; fewer for very large sets.
        progress: called after every chunk of clips.

    Returns:
        `auroc`, `interval` ([low, high], 95 %), `chance` (0.5), `by`, `n_clips`, `n_segments`, `n_texts` (all),
        `n_scored` (those with positive and negative segments), `segment_seconds`, `resamples`.
    """
    regions_of = data.regions
    with_regions = [clip for clip, regions in enumerate(regions_of) if regions]
    texts = sorted({text for regions in regions_of for _, _, text in regions})
    uses = sum(len({text for _, _, text in regions}) for regions in regions_of)
    by = "class" if len(texts) <= _CLASS_TEXTS and uses > 1.5 * len(texts) else "region"
    vectors = text_vectors(embedder, params, data, texts)
    index = {text: number for number, text in enumerate(texts)}
    scores: list[np.ndarray] = []
    truths: list[np.ndarray] = []
    clips: list[int] = []
    for clip, columns in _column_embeddings(embedder, params, data, with_regions, progress):
        regions = regions_of[clip]
        own = range(len(texts)) if by == "class" else sorted({index[text] for _, _, text in regions})
        spans = segments(data.samples[clip] / SAMPLE_RATE, len(columns), embedder.per_column / SAMPLE_RATE)
        score = np.stack([(columns[first:last] @ vectors[own].T).mean(axis=0) for first, last, _ in spans])
        truth = positives(regions, [second for _, _, second in spans], [texts[text] for text in own])
        scores.append(score)
        truths.append(truth)
        clips.extend([clip] * len(spans))
    about = {
        "chance": 0.5,
        "by": by,
        "n_clips": len(with_regions),
        "n_segments": len(clips),
        "n_texts": len(texts),
        "segment_seconds": SEGMENT_SECONDS,
    }
    if by == "region":
        return {**_by_region(scores, truths, seed, resamples), **about}
    return {**_by_class(np.concatenate(scores), np.concatenate(truths), np.array(clips), seed, resamples), **about}


def segments(seconds: float, columns: int, column_seconds: float) -> list[tuple[int, int, int]]:
    """Cuts a clip into seconds.

    Args:
        seconds: duration of the clip.
        columns: number of its columns.
        column_seconds: duration of a column.

    Returns:
        (first column, one past the last column, start in seconds) of each segment that has columns.
    """
    middle = (np.arange(columns) + 0.5) * column_seconds
    second = np.minimum(middle, max(seconds - 1e-6, 0.0)) // SEGMENT_SECONDS  # padding counts to the last second
    starts = np.flatnonzero(np.diff(second, prepend=-1))
    ends = np.append(starts[1:], columns)
    return [(int(first), int(last), int(second[first])) for first, last in zip(starts, ends, strict=True)]


def positives(regions: Sequence[Region], seconds: Sequence[int], texts: Sequence[str]) -> Bool[np.ndarray, "S X"]:
    """Returns whether a region with a text overlaps a segment, for S segments and X texts.

    Args:
        regions: regions of the clip.
        seconds: start of each segment.
        texts: distinct.
    """
    index = {text: number for number, text in enumerate(texts)}
    start = np.asarray(seconds) * SEGMENT_SECONDS
    truth = np.zeros((len(seconds), len(texts)), bool)
    for onset, offset, text in regions:
        truth[:, index[text]] |= (start < offset) & (start + SEGMENT_SECONDS > onset)
    return truth


def _column_embeddings(
    embedder: Embeds,
    params: Mapping[str, Any],
    data: ClipSet,
    indices: Sequence[int],
    progress: Progress | None,
) -> Iterator[tuple[int, Float[np.ndarray, "c E"]]]:
    done = 0
    for chunk, waveforms in waveform_chunks(data.clips, data.samples, indices):
        yield from zip(chunk, embedder.frame_embeddings(params, waveforms), strict=True)
        done += len(chunk)
        if progress:
            progress(data.name, done, len(indices))


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
