"""Retrieval against trec_eval (stored) and an independent WavCaps loop, and properties that other code gets wrong."""

import json
import pathlib
import tracemalloc

import numpy as np
import pytest

from slap_jax.evaluation.retrieval import caption_groups, rank_queries, retrieval

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "retrieval.json").read_text())


def random_set(seed, clips, per_clip, width=5, noise=1.0):
    generator = np.random.default_rng(seed)
    audio = generator.normal(size=(clips, width)).astype(np.float32)
    owner = np.repeat(np.arange(clips), per_clip)
    text = (audio[owner] + noise * generator.normal(size=(len(owner), width))).astype(np.float32)
    audio /= np.linalg.norm(audio, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    return audio, text, owner, [f"caption {index}" for index in range(len(owner))]


@pytest.mark.parametrize("name", ["distinct_5", "distinct_ragged", "equal_captions"])
def test_equals_trec_eval(name):
    case = GOLDEN[name]
    results = retrieval(np.array(case["audio"]), np.array(case["text"]), np.array(case["owner"]), case["captions"])
    for direction in ("t2a", "a2t"):
        for metric, expected in case[direction].items():
            assert results[f"{direction}_{metric}"] == pytest.approx(expected, abs=1e-9), (direction, metric)


def test_golden_file_equals_the_oracles():
    import pytrec_eval

    case = GOLDEN["distinct_5"]
    similarity = np.array(case["text"]) @ np.array(case["audio"]).T
    relevance = {f"q{q}": {f"c{clip}": 1} for q, clip in enumerate(case["owner"])}
    run = {f"q{q}": {f"c{n}": float(value) for n, value in enumerate(row)} for q, row in enumerate(similarity)}
    scores = pytrec_eval.RelevanceEvaluator(relevance, {"map_cut.10"}).evaluate(run).values()
    assert np.mean([score["map_cut_10"] for score in scores]) == pytest.approx(case["t2a"]["map10"])


def test_equals_wavcaps_loop_on_distinct_captions():
    """The definition of the WavCaps paper and code, with sorted lists."""
    audio, text, owner, captions = random_set(0, clips=40, per_clip=5)
    results = retrieval(audio, text, owner, captions)
    ranks, precisions = [], []
    for clip in range(40):
        order = sorted(range(200), key=lambda index: -float(audio[clip] @ text[index]))
        places = sorted(order.index(index) for index in range(5 * clip, 5 * clip + 5))
        ranks.append(places[0])
        precisions.append(sum((hit + 1) / (place + 1) for hit, place in enumerate(places) if place < 10) / 5)
    assert results["a2t_r1"] == np.mean([rank < 1 for rank in ranks])
    assert results["a2t_r5"] == np.mean([rank < 5 for rank in ranks])
    assert results["a2t_map10"] == pytest.approx(np.mean(precisions))
    assert results["a2t_medr"] == np.median(ranks) + 1
    places = [sorted(range(40), key=lambda n: -float(text[m] @ audio[n])).index(owner[m]) for m in range(200)]
    assert results["t2a_r10"] == np.mean([place < 10 for place in places])
    assert results["t2a_map10"] == pytest.approx(np.mean([1 / (p + 1) if p < 10 else 0 for p in places]))


def test_equal_captions_are_hits():
    # Clips 0 and 1 share a caption but for case and spaces; the caption of clip 0 is nearer to clip 1.
    audio = np.array([[0.6, 0.8], [1.0, 0.0], [-1.0, 0.0]])
    text = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    shared = retrieval(audio, text, np.arange(3), ["A dog", " a DOG ", "rain"])
    distinct = retrieval(audio, text, np.arange(3), ["a dog", "a cat", "rain"])
    assert shared["t2a_r1"] == 1.0 and shared["a2t_r1"] == 1.0 and shared["n_distinct_captions"] == 2
    assert distinct["t2a_r1"] == pytest.approx(2 / 3)
    assert shared["chance_r1"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)
    assert distinct["chance_r1"] == pytest.approx(1 / 3)


def test_chance_is_one_over_clips_with_five_captions_each():
    audio, text, owner, captions = random_set(1, clips=20, per_clip=5)
    results = retrieval(audio, text, owner, captions)
    assert results["chance_r1"] == pytest.approx(1 / 20)
    assert results["a2t_chance_r1"] == pytest.approx(1 / 20)


@pytest.mark.parametrize("value", [0.3, 0.0, np.nan])
def test_a_constant_similarity_scores_zero(value):
    _, _, owner, captions = random_set(2, clips=30, per_clip=2)
    results = retrieval(np.full((30, 4), value), np.full((60, 4), value), owner, captions)
    for name in ("t2a_r1", "t2a_r10", "t2a_map10", "a2t_r1", "a2t_r10", "a2t_map10"):
        assert results[name] == 0.0, name
    assert results["t2a_medr"] == 30
    assert results["t2a_medr_interval"] == [30, 30]


def test_order_of_clips_and_captions_does_not_matter():
    audio, text, owner, captions = random_set(3, clips=25, per_clip=3)
    expected = retrieval(audio, text, owner, captions)
    generator = np.random.default_rng(0)
    clips, texts = generator.permutation(25), generator.permutation(75)
    new_place = np.argsort(clips)
    results = retrieval(audio[clips], text[texts], new_place[owner[texts]], [captions[m] for m in texts])
    for name in ("t2a_r1", "t2a_map10", "a2t_r5", "a2t_map10", "t2a_medr", "a2t_medr"):
        assert results[name] == pytest.approx(expected[name]), name


def test_chunking_does_not_matter(monkeypatch):
    case = GOLDEN["equal_captions"]
    arguments = (np.array(case["audio"]), np.array(case["text"]), np.array(case["owner"]), case["captions"])
    whole = retrieval(*arguments)
    monkeypatch.setattr("slap_jax.evaluation.retrieval._CHUNK_ELEMENTS", 70)
    assert retrieval(*arguments) == whole


def test_perfect_embeddings_score_one():
    audio = np.eye(12)
    results = retrieval(audio, audio, np.arange(12), [str(index) for index in range(12)])
    assert results["t2a_r1"] == results["a2t_map10"] == 1.0
    assert results["t2a_r1_interval"] == [1.0, 1.0]


def test_rank_counts_only_irrelevant_candidates():
    rank, precision = rank_queries(np.array([[0.9, 0.8, 0.7, 0.1]]), np.array([[False, True, True, False]]))
    assert rank.tolist() == [2]
    assert precision[0] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_groups_follow_strip_and_casefold():
    assert caption_groups(["Straße", " STRASSE\n", "strase"]).tolist() == [0, 0, 1]


@pytest.mark.parametrize("owner", [[0, 1, 1], [0, 1, 3]])
def test_a_clip_without_caption_is_an_error(owner):
    with pytest.raises(ValueError, match="must own a caption"):
        retrieval(np.eye(3), np.eye(3), np.array(owner), ["a", "b", "c"])


def test_memory_does_not_grow_with_the_pairs(monkeypatch):
    """2,000 clips and 10,000 captions are 20 million pairs, 80 MB of similarities alone: far less is held at a time."""
    monkeypatch.setattr("slap_jax.evaluation.retrieval._CHUNK_ELEMENTS", 100_000)
    audio, text, owner, captions = random_set(9, clips=2_000, per_clip=5)
    tracemalloc.start()
    try:
        retrieval(audio, text, owner, captions, resamples=10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000
