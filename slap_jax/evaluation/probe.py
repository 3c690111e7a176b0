"""Probes: how much simple classifiers learn from frozen features of clips.

There are two kinds of features: `global`, the embedding that is compared with texts, and `dense`, the mean over time of
the features before pooling. There are two classifiers: `linear`, logistic regression (C = 1) on standardised features,
and `knn`, the votes of the 10 nearest training clips by cosine similarity. No hyper-parameter is tuned, so no
validation data is needed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from slap_jax.errors import UserError
from slap_jax.evaluation.clip_set import ClassLabels, ClipSet
from slap_jax.evaluation.embeddings import Embeds, Progress, clip_vectors
from slap_jax.evaluation.task import Probe
from slap_jax.evaluation.zero_shot import accuracy, mean_average_precision

NEIGHBOURS = 10
_QUERIES_AT_ONCE = 1_024

# (x of training clips, their classes, x of test clips) -> scores of the test clips
Learn = Callable[
    [Float[np.ndarray, "N D"], Bool[np.ndarray, "N Y"], Float[np.ndarray, "T D"]], Float[np.ndarray, "T Y"]
]
Split = tuple[Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]]  # which clips to train on, which to test on


class ProbeError(UserError, ValueError):
    """A probe that cannot be trained."""


def probe(
    embedder: Embeds,
    params: Mapping[str, Any],
    data: ClipSet,
    measure: Probe,
    *,
    seed: int = 0,
    resamples: int = 1_000,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Trains and tests both classifiers on both kinds of features.

    Args:
        embedder: embedder of the model.
        params: parameters of the model.
        data: the clips.
        measure: their labels and parts.
        seed: seed of the bootstrap over test clips.
        resamples: number of resamples of the bootstrap.
        progress: called while clips are embedded.

    Returns:
        `{set}_{linear,knn}_{global,dense}` -> `accuracy` (mean over the parts) or `map`, `interval`, `n`, `n_train`,
        `n_classes`, and the settings.

    Raises:
        ProbeError: scikit-learn is missing, or a part has no clips to train or to test on.
    """
    labels = measure.labels
    classifiers = {"linear": _linear(), "knn": _neighbours}
    splits = list(_splits(data.name, measure))
    extract = {"global": lambda waveforms: embedder.audio(params, waveforms)}
    if embedder.per_column:
        extract["dense"] = lambda waveforms: np.stack(
            [clip.mean(axis=0) for clip in embedder.frames(params, waveforms)]
        )
    vectors = clip_vectors(list(extract.values()), data, progress)
    results = {}
    for features, x in zip(extract, vectors, strict=True):
        for classifier, learn in classifiers.items():
            scores = _scores(x, labels, splits, learn)
            tested = np.flatnonzero(np.any([test for _, test in splits], axis=0))
            results[f"{data.name}_{classifier}_{features}"] = {
                **_judge(scores, labels, tested, measure.parts, len(splits) > 1, seed, resamples),
                "classifier": classifier,
                "features": features,
                "dimensions": x.shape[1],
                "settings": {"C": 1.0, "standardised": True} if classifier == "linear" else {"k": NEIGHBOURS},
                "n_train": int(np.mean([train.sum() for train, _ in splits])),
                "test_part": measure.test_part or "each in turn",
                "label": labels.key,
            }
    return results


def _splits(name: str, measure: Probe) -> Iterator[Split]:
    parts, labelled = np.asarray(measure.parts), measure.labels.labelled
    if not len(parts):
        raise ProbeError(f"evaluation set {name!r} has no folds or splits to probe with; name a label of folds")
    for part in [measure.test_part] if measure.test_part else np.unique(parts):
        test = (parts == part) & labelled
        train = (parts != part) & labelled
        if not test.any() or not train.any():
            raise ProbeError(
                f"evaluation set {name!r}, part {part!r} of {', '.join(map(str, np.unique(parts)))}: found "
                f"{int(train.sum())} clips to train on and {int(test.sum())} to test on; both need at least one"
            )
        yield train, test


def _scores(
    x: Float[np.ndarray, "N D"], labels: ClassLabels, splits: Sequence[Split], learn: Learn
) -> Float[np.ndarray, "N Y"]:
    """Scores every test clip for every class, by a classifier that did not see the clip."""
    scores = np.zeros(labels.truth.shape)
    for train, test in splits:
        scores[test] = learn(x[train], labels.truth[train], x[test])
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
    if labels.multi_label:
        return mean_average_precision(scores[tested], labels.truth[tested], seed=seed, resamples=resamples)
    truth = labels.index[tested]
    correct = scores[tested].argmax(axis=1) == truth
    folds = np.asarray(parts)[tested] if by_part else None
    return {
        **accuracy(correct, folds, seed=seed, resamples=resamples),
        "majority": float(np.bincount(truth).max() / len(tested)),
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
    """Returns the linear probe: multinomial for clips with one class each, otherwise one-vs-rest."""
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
        for column in range(truth.shape[1]):  # one-vs-rest
            y = truth[:, column]
            if y.any() and not y.all():
                scores[:, column] = fit(x, y, test)[:, 1]
        return scores

    return learn


def _neighbours(
    x: Float[np.ndarray, "N D"], truth: Bool[np.ndarray, "N Y"], test: Float[np.ndarray, "T D"]
) -> Float[np.ndarray, "T Y"]:
    """Returns the votes of the nearest training clips; similarity breaks ties between classes."""
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    test = test / np.maximum(np.linalg.norm(test, axis=1, keepdims=True), 1e-12)
    k = min(NEIGHBOURS, len(x))
    scores = np.empty((len(test), truth.shape[1]))
    for start in range(0, len(test), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        similarity = test[part] @ x.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        weight = 1.0 + 1e-3 * np.take_along_axis(similarity, nearest, axis=1)  # all k together add less than a vote
        scores[part] = np.einsum("tk,tky->ty", weight, truth[nearest])
    return scores
