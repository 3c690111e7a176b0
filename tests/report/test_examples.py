import dataclasses
import itertools

import numpy as np
import pytest

from slap_jax.report.examples import (
    EmbeddedSet,
    Hit,
    caption_examples,
    chain_order,
    embed_set,
    retrieval_examples,
    similarity_matrix,
)
from tests.report.run_dir import KnowingModel, make_clips


def knowing_set(count: int = 10, confused: tuple[int, ...] = ()) -> EmbeddedSet:
    clips = make_clips(count)
    return embed_set(KnowingModel(clips, confused), "clips", clips, count, 16_000)


def test_hits_and_misses_are_distinguished():
    examples = retrieval_examples(knowing_set(10, confused=(1, 4)), hits=3, misses=3)
    assert [query.rank == 1 for query in examples] == [True, True, True, False, False]
    for query in examples:
        assert query.hits[0].right == (query.rank == 1)
        similarities = [hit.similarity for hit in query.hits]
        assert similarities == sorted(similarities, reverse=True)
    assert {query.target for query in examples if query.rank > 1} == {1, 4}


def test_a_clip_with_the_same_caption_is_also_correct():
    clips = make_clips(4)
    twin = dataclasses.replace(clips[3], captions=["something else", clips[0].captions[0].upper()])
    model = KnowingModel([*clips[:3], twin])
    model.text[clips[0].captions[0]] = model.embed_audio([(twin.waveform, 16_000)])[0]
    examples = retrieval_examples(embed_set(model, "clips", [*clips[:3], twin], 4, 16_000))
    query = next(query for query in examples if query.target == 0)
    assert query.rank == 1 and query.hits[0] == Hit(3, 1.0, True)


def test_the_limit_keeps_the_size_of_the_set():
    clips = make_clips(6)
    embedded = embed_set(KnowingModel(clips), "clips", clips, 4, 16_000)
    assert (embedded.total, len(embedded.clips), embedded.audio.shape) == (6, 4, (4, 6))


def test_clips_beyond_the_limit_are_not_decoded():
    """A test split may have tens of thousands of clips; each access decodes one."""
    clips, accessed = make_clips(20), []

    class Lazy(list):
        def __iter__(self):
            for clip in super().__iter__():
                accessed.append(clip.id)
                yield clip

    embed_set(KnowingModel(clips), "clips", Lazy(clips), 3, 16_000)
    assert len(accessed) == 3


def test_the_matrix_keeps_groups_together_and_pairs_on_the_diagonal():
    matrix = similarity_matrix(knowing_set(12), size=9)
    assert matrix.label == "sound"
    assert matrix.groups == sorted(matrix.groups)
    assert len(set(matrix.captions)) == 9
    np.testing.assert_array_equal(matrix.similarity, np.eye(9))
    np.testing.assert_array_equal(matrix.relevant, np.eye(9, dtype=bool))


def test_chain_puts_neighbours_side_by_side():
    angles = np.array([0.0, 2.0, 0.1, 2.1, 0.2])
    order = chain_order(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert sorted(order) == [0, 1, 2, 3, 4]
    ends = [angles[index] > 1 for index in order]
    assert sum(one != other for one, other in itertools.pairwise(ends)) == 1
    assert chain_order(np.zeros((0, 2))) == []


def test_captions_come_from_every_set_in_turn():
    first, second = make_clips(8, seed=1), make_clips(3, seed=2)
    model = KnowingModel(first + second)
    drawn = caption_examples(model, [("a", clip) for clip in first] + [("b", clip) for clip in second], 16_000, count=6)
    assert [name for name, _, _ in drawn] == ["a"] * 3 + ["b"] * 3
    assert all(caption.startswith(clip.captions[0]) for _, clip, caption in drawn)
    assert caption_examples(model, [], 16_000) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_the_sample_depends_on_the_seed_only(seed):
    one = retrieval_examples(knowing_set(10, (3,)), seed=seed)
    assert one == retrieval_examples(knowing_set(10, (3,)), seed=seed)
