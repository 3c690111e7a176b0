"""Probes: what simple classifiers learn from frozen features of clips, of whole sets with labels.

Two kinds of features: `global`, the embedding that texts are compared with, and `dense`, the mean over time of the
features before pooling. Two classifiers: `linear`, logistic regression (C = 1) on standardised features, and `knn`, the
votes of the 10 nearest training clips by cosine similarity. Nothing is tuned, so no validation data is needed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from slap_jax.errors import UserError
from slap_jax.evaluation.embeddings import Embeds, Progress, clip_vectors
from slap_jax.evaluation.task import ClassLabels, EvaluationTask
from slap_jax.evaluation.zero_shot import accuracy, mean_average_precision

NEIGHBOURS = 10
_QUERIES_AT_ONCE = 1_024


class ProbeError(UserError, ValueError):
    """A probe that cannot be trained; the message says why."""


def probe(
    embedder: Embeds,
    params: Mapping[str, Any],
    task: EvaluationTask,
    *,
    seed: int = 0,
    resamples: int = 1_000,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Trains and tests both classifiers on both kinds of features.

    Args:
        embedder: of the model.
        params: of the model.
        task: with `parts`: each part is tested in turn by what learnt from the others, or `test_part` alone.
        seed: of the bootstrap over test clips.
        resamples: of the bootstrap.
        progress: called while clips are embedded.

    Returns:
        `{task}_{linear,knn}_{global,dense}` -> `accuracy` (mean over the parts) or `map`, `interval`, `n`, `n_train`,
        `n_classes`, and what was done.

    Raises:
        ProbeError: scikit-learn is missing, or a part has nothing to learn from or to test on.
    """
    labels = task.labels
    assert labels is not None  # `make_task` sees to it
    classifiers = {"linear": _linear(), "knn": _neighbours}
    known = labels.truth >= 0 if labels.positives is None else np.asarray(labels.positives.any(axis=1))
    tests = list(_tests(task, known))
    extract = {
        "global": lambda waveforms: embedder.audio(params, waveforms),
        "dense": lambda waveforms: np.stack([clip.mean(axis=0) for clip in embedder.frames(params, waveforms)]),
    }
    vectors = clip_vectors(list(extract.values()), task, progress)
    results = {}
    for features, x in zip(extract, vectors, strict=True):
        for classifier, learn in classifiers.items():
            scores = _scores(x, labels, tests, learn)
            tested = np.flatnonzero(np.any([test for _, test in tests], axis=0))
            results[f"{task.name}_{classifier}_{features}"] = {
                **_judge(scores, labels, tested, task.parts, len(tests) > 1, seed, resamples),
                "classifier": classifier,
                "features": features,
                "dimensions": x.shape[1],
                "settings": {"C": 1.0, "standardised": True} if classifier == "linear" else {"k": NEIGHBOURS},
                "n_train": int(np.mean([train.sum() for train, _ in tests])),
                "test_part": task.test_part or "each in turn",
                "label": labels.key,
            }
    return results


def _tests(
    task: EvaluationTask, known: Bool[np.ndarray, " N"]
) -> Iterator[tuple[Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]]]:
    """The clips to learn from and those to test on, once or for each part."""
    parts = np.asarray(task.parts)
    if not len(parts):
        raise ProbeError(f"evaluation set {task.name!r} has no folds or splits to probe with; name a label of folds")
    for part in [task.test_part] if task.test_part else np.unique(parts):
        test = (parts == part) & known
        train = (parts != part) & known
        if not test.any() or not train.any():
            raise ProbeError(
                f"evaluation set {task.name!r}: {int(train.sum())} clips to learn from and {int(test.sum())} to test "
                f"on in part {part!r} of {', '.join(map(str, np.unique(parts)))}; both need some"
            )
        yield train, test


Learn = Callable[
    [Float[np.ndarray, "N D"], Bool[np.ndarray, "N Y"], Float[np.ndarray, "T D"]], Float[np.ndarray, "T Y"]
]


def _scores(
    x: Float[np.ndarray, "N D"],
    labels: ClassLabels,
    tests: Sequence[tuple[Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]]],
    learn: Learn,
) -> Float[np.ndarray, "N Y"]:
    """The scores of every tested clip for every class, by what did not see it."""
    truth = labels.positives
    if truth is None:
        truth = labels.truth[:, None] == np.arange(len(labels.classes))
    scores = np.zeros(truth.shape)
    for train, test in tests:
        scores[test] = learn(x[train], truth[train], x[test])
    return scores


def _judge(
    scores: Float[np.ndarray, "N Y"],
    labels: ClassLabels,
    tested: Int[np.ndarray, " T"],
    parts: Sequence[str],
    by_part: bool,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    if labels.positives is not None:
        return mean_average_precision(scores[tested], labels.positives[tested], seed=seed, resamples=resamples)
    correct = scores[tested].argmax(axis=1) == labels.truth[tested]
    folds = np.asarray(parts)[tested] if by_part else None
    return {
        **accuracy(correct, folds, seed=seed, resamples=resamples),
        "majority": float(np.bincount(labels.truth[tested]).max() / len(tested)),
        "n": len(tested),
        "n_classes": len(labels.classes),
    }


def require_classifier() -> Any:
    """Imports scikit-learn's logistic regression.

    Raises:
        ProbeError: it is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ProbeError(f"a linear probe needs scikit-learn ({error}): pip install 'slap-jax[eval]'") from error
    return LogisticRegression


def _linear() -> Learn:
    """The linear probe: of clips with one class each, or of each class against the rest."""
    classifier = require_classifier()

    def fit(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
        model = classifier(C=1.0, max_iter=1_000).fit(x, y)
        if len(model.classes_) == 2:  # one column of scores, for the second class
            score = model.decision_function(test)
            return np.stack([-score, score], axis=1)
        return model.decision_function(test)

    def learn(x: np.ndarray, truth: np.ndarray, test: np.ndarray) -> np.ndarray:
        mean, deviation = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
        x, test = (x - mean) / deviation, (test - mean) / deviation
        scores = np.full((len(test), truth.shape[1]), -np.inf)
        if (truth.sum(axis=1) == 1).all():
            y = truth.argmax(axis=1)
            present = np.unique(y)
            scores[:, present] = fit(x, y, test) if len(present) > 1 else 0.0
            return scores
        for column in range(truth.shape[1]):  # each class against the rest
            y = truth[:, column]
            if y.any() and not y.all():
                scores[:, column] = fit(x, y, test)[:, 1]
        return scores

    return learn


def _neighbours(
    x: Float[np.ndarray, "N D"], truth: Bool[np.ndarray, "N Y"], test: Float[np.ndarray, "T D"]
) -> Float[np.ndarray, "T Y"]:
    """Votes of the nearest training clips; among classes of equal votes, the more similar clips decide."""
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    test = test / np.maximum(np.linalg.norm(test, axis=1, keepdims=True), 1e-12)
    k = min(NEIGHBOURS, len(x))
    scores = np.empty((len(test), truth.shape[1]))
    for start in range(0, len(test), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        similarity = test[part] @ x.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        weight = 1.0 + 1e-3 * np.take_along_axis(similarity, nearest, axis=1)  # below one vote, all k together
        scores[part] = np.einsum("tk,tky->ty", weight, truth[nearest])
    return scores
