"""Writes retrieval.json: scores of random embeddings by pytrec-eval-terrier and scikit-learn, for the tests.

pip install pytrec-eval-terrier scikit-learn && python tests/golden/make_retrieval.py
"""

import json
import pathlib

import numpy as np
import pytrec_eval
from sklearn.metrics import accuracy_score

MEASURES = {"success_1": "r1", "success_5": "r5", "success_10": "r10", "map_cut_10": "map10"}


def trec_scores(similarity: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    """Scores queries [Q] against candidates [X] with trec_eval."""
    names = [f"c{index}" for index in range(similarity.shape[1])]
    relevance = {f"q{q}": {names[x]: int(relevant[q, x]) for x in range(len(names))} for q in range(len(relevant))}
    run = {f"q{q}": {names[x]: float(similarity[q, x]) for x in range(len(names))} for q in range(len(relevant))}
    evaluator = pytrec_eval.RelevanceEvaluator(relevance, {"success.1,5,10", "map_cut.10"})
    scores = list(evaluator.evaluate(run).values())
    return {ours: float(np.mean([score[theirs] for score in scores])) for theirs, ours in MEASURES.items()}


def case(seed: int, counts: list[int], vocabulary: int | None) -> dict:
    """Returns random clips with `counts[n]` captions each; few different texts make some captions equal."""
    generator = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(counts)), counts)
    if vocabulary is None:
        captions = [f"caption {index}" for index in range(len(owner))]
        texts = owner
    else:
        texts = generator.integers(vocabulary, size=len(owner))
        captions = [f"Sound {index}" if generator.random() < 0.5 else f" sound {index} " for index in texts]
    signal = generator.normal(size=(int(max(texts)) + 1, 6))
    audio = signal[texts[np.searchsorted(owner, np.arange(len(counts)))]] + 1.2 * generator.normal(
        size=(len(counts), 6)
    )
    text = signal[texts] + 1.2 * generator.normal(size=(len(owner), 6))
    audio, text = audio.round(3), text.round(3)
    equal = np.array([[a.strip().lower() == b.strip().lower() for b in captions] for a in captions])
    relevant = np.array([equal[:, owner == n].any(axis=1) for n in range(len(counts))]).T  # [M, N]
    return {
        "audio": audio.tolist(),
        "text": text.tolist(),
        "owner": owner.tolist(),
        "captions": captions,
        "t2a": trec_scores(text @ audio.T, relevant),
        "a2t": trec_scores(audio @ text.T, relevant.T),
    }


def classification(seed: int) -> dict:
    """Returns random clips of 7 classes, scored by scikit-learn."""
    generator = np.random.default_rng(seed)
    classes = generator.normal(size=(7, 6)).round(3)
    truth = generator.integers(7, size=80)
    audio = (classes[truth] + generator.normal(size=(80, 6))).round(3)
    accuracy = accuracy_score(truth, np.argmax(audio @ classes.T, axis=1))
    return {"audio": audio.tolist(), "classes": classes.tolist(), "truth": truth.tolist(), "accuracy": float(accuracy)}


if __name__ == "__main__":
    cases = {
        "distinct_5": case(0, [5] * 30, None),
        "distinct_ragged": case(1, [1, 3, 2, 7, 1, 12, 4, 2, 1, 5, 3, 2, 6, 1, 1, 2], None),
        "equal_captions": case(2, [1, 2, 3, 1, 4, 2, 5, 3, 1, 2, 2, 3, 11, 1, 2, 3, 1, 1, 2, 4], 15),
        "classification": classification(3),
    }
    path = pathlib.Path(__file__).with_name("retrieval.json")
    path.write_text(json.dumps(cases) + "\n")
    for name, values in cases.items():
        print(name, values.get("t2a"), values.get("a2t"), values.get("accuracy"))
