"""Samples clips, queries and captions of a run at random, so that the page shows no hand-picked results."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from slap_jax.evaluation.retrieval import caption_groups, rank_queries


@dataclasses.dataclass(frozen=True)
class EmbeddedSet:
    """Clips of an evaluation set with their embeddings.

    Attributes:
        name: name of the set.
        total: number of clips in the set; `clips` may be the first of them only.
        clips: each has `id`, `waveform`, `captions`, `labels`.
        audio: unit embeddings of the clips.
        text: unit embeddings of the first caption of each clip.
    """

    name: str
    total: int
    clips: list[Any]
    audio: Float[np.ndarray, "N E"]
    text: Float[np.ndarray, "N E"]

    @property
    def queries(self) -> list[str]:
        """Returns the first caption of each clip."""
        return [clip.captions[0] for clip in self.clips]

    def relevant(self) -> Bool[np.ndarray, "N N"]:
        """Returns whether a clip (column) is right for a query (row): one of its captions equals the query."""
        captions = [caption for clip in self.clips for caption in clip.captions]
        owner = np.repeat(np.arange(len(self.clips)), [len(clip.captions) for clip in self.clips])
        groups = caption_groups(captions)
        first = np.searchsorted(owner, np.arange(len(self.clips)))
        relevant = np.zeros((len(self.clips), len(self.clips)), bool)
        for query, group in enumerate(groups[first]):
            relevant[query, owner[groups == group]] = True
        return relevant


def embed_set(model: Any, name: str, clips: Sequence[Any], limit: int, sample_rate: int) -> EmbeddedSet:
    """Embeds the first clips of a set and their first captions.

    Args:
        model: has `embed_audio(list of (array, rate), allow_silence) -> [n, E]` and `embed_text(texts) -> [n, E]`.
        name: name of the set.
        clips: clips of the set; clips without a caption are skipped.
        limit: largest number of clips to embed.
        sample_rate: sample rate of the waveforms, in Hz.
    """
    chosen = list(itertools.islice((clip for clip in clips if clip.captions), limit))  # others are not decoded
    return EmbeddedSet(
        name=name,
        total=len(clips),
        clips=chosen,
        audio=np.asarray(model.embed_audio([(clip.waveform, sample_rate) for clip in chosen], allow_silence=True)),
        text=np.asarray(model.embed_text([clip.captions[0] for clip in chosen])),
    )


@dataclasses.dataclass(frozen=True)
class Hit:
    """A clip that was retrieved for a query.

    Attributes:
        clip: index of the clip.
        similarity: cosine similarity to the query.
        right: whether the query is one of its captions.
    """

    clip: int
    similarity: float
    right: bool


@dataclasses.dataclass(frozen=True)
class Query:
    """A caption and the clips that the model ranks first for it.

    Attributes:
        text: the caption.
        rank: 1-based rank of the best right clip.
        candidates: number of ranked clips.
        hits: the first clips, best first.
        target: index of the clip whose caption it is.
    """

    text: str
    rank: int
    candidates: int
    hits: list[Hit]
    target: int


def retrieval_examples(
    embedded: EmbeddedSet, hits: int = 3, misses: int = 3, top: int = 3, seed: int = 0
) -> list[Query]:
    """Samples text queries at random: some whose right clip came first, and some where it did not.

    Args:
        embedded: the set.
        hits: number of queries whose right clip came first.
        misses: number of the others.
        top: number of clips to list for each query.
        seed: seed of the sampling.

    Returns:
        Hits, then misses; fewer if the set has fewer. No caption appears twice.
    """
    similarity = embedded.text @ embedded.audio.T
    relevant = embedded.relevant()
    ranks, _ = rank_queries(similarity, relevant)
    order = np.random.default_rng(seed).permutation(len(embedded.clips))
    distinct = _first_of_each(order, caption_groups(embedded.queries))
    chosen = [index for index in distinct if ranks[index] == 1][:hits]
    chosen += [index for index in distinct if ranks[index] > 1][:misses]
    examples = []
    for query in chosen:
        best = np.argsort(-similarity[query], kind="stable")[:top]
        retrieved = [Hit(int(clip), float(similarity[query, clip]), bool(relevant[query, clip])) for clip in best]
        examples.append(
            Query(embedded.queries[query], int(ranks[query]), len(embedded.clips), retrieved, target=int(query))
        )
    return examples


def _first_of_each(order: Int[np.ndarray, " n"], groups: Int[np.ndarray, " n"]) -> list[int]:
    seen: dict[int, int] = {}
    for index in order:
        seen.setdefault(int(groups[index]), int(index))
    return list(seen.values())


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A part of a set, ordered so that similar captions are neighbours.

    Attributes:
        similarity: similarity of captions (rows) with clips (columns).
        captions: captions of the rows.
        groups: name of the group of each row; "" if the set has no label to group by.
        relevant: whether the clip of the column is right for the caption of the row.
        label: the label key that names the groups; "" for none.
    """

    similarity: Float[np.ndarray, "n n"]
    captions: list[str]
    groups: list[str]
    relevant: Bool[np.ndarray, "n n"]
    label: str


def similarity_matrix(embedded: EmbeddedSet, size: int = 32, seed: int = 0) -> Matrix:
    """Samples clips with different captions at random, ordered by group, then by similarity of their captions.

    Only the texts decide the order, so a bright diagonal is evidence about the model.
    """
    order = np.random.default_rng(seed).permutation(len(embedded.clips))
    chosen = _first_of_each(order, caption_groups(embedded.queries))[:size]
    label, groups = _groups([embedded.clips[index].labels for index in chosen])
    sequence = []
    for group in sorted(set(groups)):
        members = [index for index, name in zip(chosen, groups, strict=True) if name == group]
        sequence += [members[position] for position in chain_order(embedded.text[members])]
    name_of = dict(zip(chosen, groups, strict=True))
    picked = np.array(sequence)
    return Matrix(
        similarity=embedded.text[picked] @ embedded.audio[picked].T,
        captions=[embedded.queries[index] for index in sequence],
        groups=[name_of[index] for index in sequence],
        relevant=embedded.relevant()[np.ix_(picked, picked)],
        label=label,
    )


def _groups(labels: Sequence[Sequence[str]]) -> tuple[str, list[str]]:
    """Groups clips by the label key that most of them, at least half, have, with 2 to 8 different values."""
    values = [dict(label.split("=", 1) for label in of_clip if "=" in label) for of_clip in labels]
    best, coverage = "", (len(values) - 1) // 2
    for key in sorted({key for of_clip in values for key in of_clip}):
        distinct = {of_clip[key] for of_clip in values if key in of_clip}
        covered = sum(key in of_clip for of_clip in values)
        if 2 <= len(distinct) <= 8 and covered > coverage:
            best, coverage = key, covered
    return best, [of_clip.get(best, "other") if best else "" for of_clip in values]


def chain_order(vectors: Float[np.ndarray, "n E"]) -> list[int]:
    """Orders unit vectors greedily: starts from the least typical one and appends the most similar one that is left."""
    if len(vectors) == 0:
        return []
    similarity = vectors @ vectors.T
    order = [int(similarity.sum(axis=1).argmin())]
    left = set(range(len(vectors))) - set(order)
    while left:
        following = max(sorted(left), key=lambda index: similarity[order[-1], index])
        order.append(following)
        left.remove(following)
    return order


def caption_examples(
    model: Any, clips: Sequence[tuple[str, Any]], sample_rate: int, count: int = 6, seed: int = 0
) -> list[tuple[str, Any, str]]:
    """Samples clips at random, in turn from each set, and captions them.

    Args:
        model: has `caption(list of (array, rate)) -> list of str`.
        clips: (name of the set, clip).
        sample_rate: sample rate of the waveforms, in Hz.
        count: number of clips.
        seed: seed of the sampling.

    Returns:
        (name of the set, clip, generated caption).
    """
    generator = np.random.default_rng(seed)
    by_set: dict[str, list[Any]] = {}
    for name, clip in clips:
        by_set.setdefault(name, []).append(clip)
    shuffled = [[(name, group[i]) for i in generator.permutation(len(group))] for name, group in by_set.items()]
    turns = max((len(group) for group in shuffled), default=0)
    drawn = [group[turn] for turn in range(turns) for group in shuffled if turn < len(group)][:count]
    drawn.sort(key=lambda item: list(by_set).index(item[0]))
    captions = model.caption([(clip.waveform, sample_rate) for _, clip in drawn], allow_silence=True) if drawn else []
    return [(name, clip, caption) for (name, clip), caption in zip(drawn, captions, strict=True)]
