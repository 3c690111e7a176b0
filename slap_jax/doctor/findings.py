"""The conditions that a healthy model meets; each that is not met is a finding that says what to do.

The fingerprint of an export: what its model made of the probes on the machine that wrote it.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from slap_jax.atomic import write_text_atomic
from slap_jax.checkpoints.model_dir import FINGERPRINT, WEIGHTS, ExportError, load_export
from slap_jax.checkpoints.read_model import read_model
from slap_jax.doctor.measure import Measures, largest_distance, mean_cosine, measure, modality_gap

# Any two texts of a collapsed tower that was published as a port had a cosine of 0.9993; sounds and texts as unlike as
# the probes are far apart in a model that learned anything.
COLLAPSED = 0.98
SAME = 1e-3  # distance of unit vectors below which a tower does not tell its inputs apart

# What the audio tower may see: the probes lie about the loudness of real clips, and the data set's constants bring real
# clips to mean 0 and deviation 1.
NORMALISED_MEAN, NORMALISED_DEVIATION = 2.5, (0.25, 4.0)
SCALES = (1.0, 10_000.0)
UNKNOWN = 0.5

# Cosine with the stored fingerprint. bfloat16 has three digits, and accelerators multiply float32 with hardly more.
SAME_VECTOR, SAME_VECTOR_ROUNDED = 0.9999, 0.995
SAME_LOG_MEL = 0.01


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something about a model that is not as it should be.

    Attributes:
        name: for programs.
        message: what was found, what was expected and what to do.
    """

    name: str
    message: str


def examine(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Examines a model.

    Args:
        directory: an export, or a run directory, whose newest checkpoint is examined.

    Returns:
        JSON values: `model`, `healthy`, `findings` (name and message), `measures`, and `fingerprint`: "same", "other",
        or "none" where none is stored.

    Raises:
        ExportError: not a model, or damaged files.
    """
    export = read_model(directory)
    measures = measure(export)
    stored = read_fingerprint(directory) if (Path(directory) / WEIGHTS).is_file() else None
    findings = [finding for check in CHECKS for finding in check(measures)]
    compared = [] if stored is None else list(_compare(measures, stored, export.config.model.compute_dtype))
    findings += compared
    finite = not any(finding.name.startswith("non_finite") for finding in findings)
    return {
        "model": os.fspath(directory),
        "step": export.step,
        "healthy": not findings,
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "fingerprint": "none" if stored is None else "other" if compared else "same",
        "measures": summary(measures) if finite else {},
    }


def summary(measures: Measures) -> dict[str, float]:
    """The measures in a few numbers."""
    across = np.stack(list(measures.sounds.values())) @ np.stack(list(measures.texts.values())).T
    return {
        "mean_cosine_of_sounds": mean_cosine(measures.sounds),
        "mean_cosine_of_texts": mean_cosine(measures.texts),
        "mean_cosine_of_sounds_and_texts": float(across.mean()),
        "modality_gap": modality_gap(measures),
        "scale": min(measures.scale, measures.max_scale),
        "normalised_log_mel_mean": measures.normalised[0],
        "normalised_log_mel_deviation": measures.normalised[1],
        "unknown_tokens": measures.unknown,
    }


def _weights(measures: Measures) -> Iterator[Finding]:
    for names, name, problem in (
        (measures.bad_weights, "non_finite_weights", "hold NaN or infinity"),
        (measures.zero_weights, "zero_weights", "are zero everywhere"),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield Finding(
                name, f"the weights {', '.join(names[:3])}{more} {problem}: export an earlier step of the run"
            )


def _finite(measures: Measures) -> Iterator[Finding]:
    for kind, vectors in (("sounds", measures.sounds), ("texts", measures.texts)):
        bad = [name for name, vector in vectors.items() if not np.isfinite(vector).all()]
        if bad:
            yield Finding(
                f"non_finite_{kind}",
                f"the embeddings of {', '.join(map(repr, bad))} are not finite: check the weights, and try "
                "compute_dtype='float32'",
            )


def _spread(measures: Measures) -> Iterator[Finding]:
    for kind, tower, vectors in (("sounds", "audio", measures.sounds), ("texts", "text", measures.texts)):
        if not all(np.isfinite(vector).all() for vector in vectors.values()):
            continue
        distance, cosine = largest_distance(vectors), mean_cosine(vectors)
        if distance < SAME:
            yield Finding(
                f"dead_{tower}_tower",
                f"all probe {kind} have the same embedding (largest distance {distance:.1e}): the {tower} tower does "
                "not depend on its input; its weights are not those that were trained, or training collapsed",
            )
        elif cosine > COLLAPSED:
            yield Finding(
                f"collapsed_{kind}",
                f"the mean cosine between probe {kind} is {cosine:.4f}, expected less than {COLLAPSED}: the embeddings "
                "collapsed; compare embedding_spread in the run's metrics, and export an earlier step",
            )


def _scale(measures: Measures) -> Iterator[Finding]:
    low, high = SCALES
    if not low <= measures.scale <= high:
        yield Finding(
            "scale_out_of_range",
            f"the learned scale (inverse temperature) is {measures.scale:.4g}, expected {low:g} to {high:g}: "
            "probabilities of `classify` mean nothing; check objectives/contrastive/log_scale",
        )


def _front_end(measures: Measures) -> Iterator[Finding]:
    mean, deviation = measures.normalised
    low, high = NORMALISED_DEVIATION
    if abs(mean) > NORMALISED_MEAN or not low <= deviation <= high:
        yield Finding(
            "front_end_level",
            f"the probes' normalised log-mel has mean {mean:.2f} and standard deviation {deviation:.2f}, expected "
            f"within {-NORMALISED_MEAN} to {NORMALISED_MEAN} and {low} to {high}: config.audio.mean and .std are not "
            "those of a natural log-mel of this front end; measure the training data with `slap stats`",
        )


def _vocabulary(measures: Measures) -> Iterator[Finding]:
    if measures.unknown > UNKNOWN or measures.same_tokens:
        yield Finding(
            "vocabulary",
            f"{measures.unknown:.0%} of the tokens of plain English texts are unknown to the vocabulary, and "
            f"{measures.same_tokens} pairs of texts become the same tokens: give the vocabulary that the model was "
            "trained with, or texts in the language of its captions",
        )


CHECKS: tuple[Callable[[Measures], Iterator[Finding]], ...] = (
    _weights,
    _finite,
    _spread,
    _scale,
    _front_end,
    _vocabulary,
)


def _compare(measures: Measures, stored: Mapping[str, Any], compute_dtype: str) -> Iterator[Finding]:
    changed = [
        name
        for name, values in measures.log_mel.items()
        if name not in stored["log_mel"] or np.abs(np.array(values) - stored["log_mel"][name]).max() > SAME_LOG_MEL
    ]
    if changed:
        yield Finding(
            "front_end_mismatch",
            f"the log-mel of the probes {', '.join(changed)} is not what it was when the model was exported: "
            "config.audio was changed since, or the front end computes something else",
        )
    exact = compute_dtype == "float32" and stored["platform"] == jax.default_backend() == "cpu"
    least = SAME_VECTOR if exact else SAME_VECTOR_ROUNDED
    for kind, vectors in (("sounds", measures.sounds), ("texts", measures.texts)):
        if set(stored[kind]) != set(vectors):
            yield Finding(f"other_{kind}", f"the fingerprint holds other probe {kind}: export the model again")
            continue
        cosine = {name: float(np.dot(vector, stored[kind][name])) for name, vector in vectors.items()}
        worst = min(cosine, key=lambda name: cosine[name] if np.isfinite(cosine[name]) else -2.0)
        if not cosine[worst] >= least:
            yield Finding(
                f"other_{kind}",
                f"the embedding of {worst!r} has cosine {cosine[worst]:.4f} with that of the export, expected at least "
                f"{least}: the weights, the settings or the vocabulary were exchanged, or this machine computes "
                "something else",
            )


VERSION = 1
_DIGITS = 6


def write_fingerprint(directory: str | os.PathLike[str]) -> Measures:
    """Measures the model of an export directory and writes the outcome beside it; returns the measures."""
    measures = measure(load_export(directory))

    def rounded(values: Any) -> list[float]:
        return [round(float(value), _DIGITS) for value in values]

    content = {
        "version": VERSION,
        "platform": jax.default_backend(),
        "sounds": {name: rounded(vector) for name, vector in measures.sounds.items()},
        "texts": {text: rounded(vector) for text, vector in measures.texts.items()},
        "log_mel": {name: rounded(values) for name, values in measures.log_mel.items()},
    }
    write_text_atomic(Path(directory) / FINGERPRINT, json.dumps(content) + "\n")
    return measures


def read_fingerprint(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns what is stored: name -> array under `sounds`, `texts` and `log_mel`, and the `platform` that computed it.

    None where there is no fingerprint.

    Raises:
        ExportError: the file is damaged, or of another version.
    """
    path = Path(directory) / FINGERPRINT
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ExportError(
                f"{path} has version {content['version']!r}; this slap_jax reads version {VERSION}: delete it, or "
                "write the export again"
            )
        return {
            "platform": content["platform"],
            **{
                kind: {name: np.array(values, np.float32) for name, values in content[kind].items()}
                for kind in ("sounds", "texts", "log_mel")
            },
        }
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete it, or write the export again"
        ) from None
