"""Mistakes of other evaluations, each of which would change a number; none changes a number here."""

import numpy as np
import pytest

from slap_jax.config.defaults import source
from slap_jax.data import evaluation_set
from slap_jax.data.evaluation_set import EvaluationClip, load_evaluation
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import make_record
from slap_jax.evaluation.clip_set import read_clip_set
from slap_jax.evaluation.evaluate import evaluate
from slap_jax.evaluation.retrieval import retrieval
from slap_jax.evaluation.task import load_tasks, retrieval_task
from tests.evaluation.hashing_embedder import HashingEmbedder
from tests.inference.tiny import CAPTIONS, noise


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Ten clips of three captions, some captions equal."""
    path = tmp_path_factory.mktemp("traps") / "clips"
    records = [
        make_record(
            f"clip{n}", noise(n, 0.1 + 0.3 * (n % 3)), [CAPTIONS[n], CAPTIONS[20 + n], "a dog barks"], source="x"
        )
        for n in range(10)
    ]
    prepare_records({"test": (10, records)}, path, {}, log=lambda line: None)
    return path


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_trap_duplicate_captions():
    """Ground truth by caption text, where a repeated text overwrites the clip that had it first."""
    audio, text = unit([[1, 0], [0, 1]]), unit([[1, 0.1], [0.1, 1]])
    result = retrieval(audio, text, np.array([0, 1]), ["a man speaking", "A man speaking "])
    assert result["t2a_r1"] == result["a2t_r1"] == 1.0 and result["n_distinct_captions"] == 1
    assert result["chance_r1"] == 1.0  # whichever clip is named, its caption fits


def test_trap_ties():
    """Ties in the order of an argsort: with clips in the order of their captions a constant model scores 100 %."""
    audio, text = np.ones((5, 3)), np.ones((5, 3))
    result = retrieval(audio, text, np.arange(5), [str(n) for n in range(5)])
    assert result["t2a_r1"] == result["a2t_r1"] == 0.0 and result["t2a_medr"] == 5


def test_trap_map_denominator():
    """mAP@10 divided by the number of retrieved hits, or averaged over the queries that had one."""
    # Clip 0 has five captions, of which one is near it: at rank 1. Clip 1 has none of its captions in the top ten.
    audio = unit([[1, 0, 0], [0, 1, 0]])
    own = [[1, 0, 0.1], *[[-1, 0, 0.1 * n] for n in range(1, 5)]]
    other = [[-1, -1, 0.1 * n] for n in range(1, 6)]
    decoys = [[0.2, 1, 0.1 * n] for n in range(1, 11)]
    text = unit([*own, *other, *decoys])
    owner = np.array([0] * 5 + [1] * 5 + [2] * 10)
    audio = np.concatenate([audio, unit([[0.3, 0.9, 0.2]])])
    result = retrieval(audio, text, owner, [str(n) for n in range(20)])
    # Clip 0: (1 / 1) / 5. Clip 1: 0. Clip 2: its ten captions are the ten nearest.
    assert result["a2t_map10"] == pytest.approx((1 / 5 + 0 + 1) / 3)


def test_trap_retrieval_within_batches(prepared, tokenizer, monkeypatch):
    """Candidates of one batch instead of the whole set: chunks of two clips must not change a number."""
    (task,) = load_tasks({"x": source(str(prepared), "test")}, tokenizer, 24)
    whole = evaluate(HashingEmbedder(), {}, [task], resamples=10)
    monkeypatch.setattr(evaluation_set, "_CHUNK_CLIPS", 2)
    monkeypatch.setattr("slap_jax.evaluation.retrieval._CHUNK_ELEMENTS", 7)
    monkeypatch.setattr("slap_jax.evaluation.embeddings._TEXTS_AT_ONCE", 3)
    embedder = HashingEmbedder()
    assert evaluate(embedder, {}, [task], resamples=10) == whole
    assert embedder.largest_call == 2
    assert whole["retrieval"]["x"]["n_clips"] == 10


def test_trap_random_crops(prepared, tokenizer):
    """A random part of each clip: every evaluation must see every sample, and give the same numbers."""

    class LastSample(HashingEmbedder):
        def __init__(self):
            super().__init__()
            self.seen = []

        def audio(self, params, waveforms):
            self.seen += [(len(waveform), int(waveform[-1])) for waveform in waveforms]
            return super().audio(params, waveforms)

    (task,) = load_tasks({"x": source(str(prepared), "test")}, tokenizer, 24)
    first, second = LastSample(), LastSample()
    assert evaluate(first, {}, [task], resamples=10) == evaluate(second, {}, [task], resamples=10)
    clips = load_evaluation(prepared, "test")
    assert first.seen == second.seen == [(len(clip.waveform), int(clip.waveform[-1])) for clip in clips]


def test_trap_missing_clips(tokenizer):
    """Unreadable clips are dropped silently; here the results state N and the size of the set."""
    clips = [EvaluationClip(f"{n}", np.full(99, n, np.int16), (f"sound {n}",), (), n) for n in range(4)]
    task = retrieval_task(read_clip_set("x", clips, tokenizer, 24, n_published=5))
    result = evaluate(HashingEmbedder(), {}, [task], resamples=10)
    entry = result["retrieval"]["x"]
    assert (entry["n_clips"], entry["set_size"], entry["n_published"]) == (4, 4, 5)


def test_trap_truncated_captions(tokenizer):
    clips = [EvaluationClip(f"{n}", np.full(99, n, np.int16), ("rain " * 40 + str(n),), (), n) for n in range(2)]
    task = retrieval_task(read_clip_set("x", clips, tokenizer, 24))
    result = evaluate(HashingEmbedder(), {}, [task], resamples=10)
    assert result["retrieval"]["x"]["n_captions_cut"] == 2


def test_equals_trec_eval_on_ties():
    """trec_eval puts the greater name first where scores are equal: names that let the irrelevant win are our rule."""
    import pytrec_eval

    generator = np.random.default_rng(0)
    audio, text = generator.integers(-1, 2, (40, 3)).astype(float), generator.integers(-1, 2, (90, 3)).astype(float)
    owner = np.concatenate([np.arange(40), generator.integers(0, 40, 50)])
    captions = [f"text {n}" for n in generator.integers(0, 60, 90)]
    result = retrieval(audio, text, owner, captions)
    owns = np.zeros((40, 90), bool)
    for clip in range(40):
        texts = {captions[caption] for caption in np.flatnonzero(owner == clip)}
        owns[clip] = [caption in texts for caption in captions]
    for way, similarity, relevant in (("a2t", audio @ text.T, owns), ("t2a", text @ audio.T, owns.T)):
        assert any(len(set(row)) < len(row) / 3 for row in similarity)
        judged, run = {}, {}
        for query, row in enumerate(similarity):
            names = [f"{'a' if relevant[query, n] else 'z'}{n}" for n in range(len(row))]
            judged[f"q{query}"] = {name: int(name[0] == "a") for name in names}
            run[f"q{query}"] = dict(zip(names, map(float, row), strict=True))
        measures = {"success.1,5,10", "map_cut.10"}
        scores = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(run).values()
        for ours, theirs in (("r1", "success_1"), ("r5", "success_5"), ("r10", "success_10"), ("map10", "map_cut_10")):
            assert result[f"{way}_{ours}"] == pytest.approx(np.mean([score[theirs] for score in scores]), abs=1e-9)
