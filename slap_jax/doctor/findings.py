"""Checks of an exported model, and its fingerprint.

Each condition that a healthy model meets is a check, and each violation is a fault with advice. The fingerprint is the
output of the model for the probes on the machine that wrote the export.
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
from slap_jax.checkpoints.model_dir import FINGERPRINT, ExportError, load_export
from slap_jax.doctor.measure import (
    Measurements,
    ProbeEmbeddings,
    largest_distance,
    mean_cosine,
    measure_model,
    modality_gap,
)

# In a published port with a collapsed tower, any two texts had a cosine of 0.9993. In a model that learned anything,
# sounds and texts as different as the probes are far apart.
COLLAPSED = 0.98
SAME = 1e-3  # distance of unit vectors below which a tower ignores its input

# The probes are about as loud as real clips, which the constants of the dataset bring to mean 0 and deviation 1.
NORMALISED_MEAN, NORMALISED_DEVIATION = 2.5, (0.25, 4.0)
SCALES = (1.0, 10_000.0)
UNKNOWN = 0.5

# Cosine with the stored fingerprint. bfloat16 has three digits, and accelerators multiply float32 with hardly more.
SAME_VECTOR, SAME_VECTOR_ROUNDED = 0.9999, 0.995
SAME_LOG_MEL = 0.01

FINGERPRINT_VERSION = 1
_DIGITS = 6


@dataclasses.dataclass(frozen=True)
class ModelFault:
    """A condition that a model does not meet.

    Attributes:
        name: Identifier for programs.
        message: What was measured, what was expected and what to do.
    """

    name: str
    message: str


def summary_of_embeddings(measured: ProbeEmbeddings) -> dict[str, float]:
    """Summarises the embeddings of the probes in a few numbers."""
    across = np.stack(list(measured.sounds.values())) @ np.stack(list(measured.texts.values())).T
    return {
        "mean_cosine_of_sounds": mean_cosine(measured.sounds),
        "mean_cosine_of_texts": mean_cosine(measured.texts),
        "mean_cosine_of_sounds_and_texts": float(across.mean()),
        "modality_gap": modality_gap(measured),
    }


def summary(measured: Measurements) -> dict[str, float]:
    """Summarises the measurements in a few numbers."""
    return {
        **summary_of_embeddings(measured),
        "scale": min(measured.scale, measured.max_scale),
        "normalised_log_mel_mean": measured.normalised[0],
        "normalised_log_mel_deviation": measured.normalised[1],
        "unknown_tokens": measured.unknown,
    }


def write_fingerprint(directory: str | os.PathLike[str]) -> Measurements:
    """Measures the model of an export directory and writes its fingerprint there; returns the measurements."""
    measured = measure_model(load_export(directory))

    def rounded(values: Any) -> list[float]:
        return [round(float(value), _DIGITS) for value in values]

    content = {
        "version": FINGERPRINT_VERSION,
        "platform": jax.default_backend(),
        "sounds": {name: rounded(vector) for name, vector in measured.sounds.items()},
        "texts": {text: rounded(vector) for text, vector in measured.texts.items()},
        "log_mel": {name: rounded(values) for name, values in measured.log_mel.items()},
    }
    write_text_atomic(Path(directory) / FINGERPRINT, json.dumps(content) + "\n")
    return measured


def read_fingerprint(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Reads the fingerprint of an export.

    Returns:
        Arrays by name under `sounds`, `texts` and `log_mel`, and the `platform` that computed them; None if there is no
        fingerprint.

    Raises:
        ExportError: The file is damaged or has another version.
    """
    path = Path(directory) / FINGERPRINT
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != FINGERPRINT_VERSION:
            raise ExportError(
                f"{path} has version {content['version']!r}; this slap_jax reads version "
                f"{FINGERPRINT_VERSION}: delete it, or write the export again"
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


def _weights(measured: Measurements) -> Iterator[ModelFault]:
    for names, name, problem in (
        (measured.bad_weights, "non_finite_weights", "hold NaN or infinity"),
        (measured.zero_weights, "zero_weights", "are zero everywhere"),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield ModelFault(
                name, f"the weights {', '.join(names[:3])}{more} {problem}: export an earlier step of the run"
            )


def check_finite(measured: ProbeEmbeddings) -> Iterator[ModelFault]:
    """Requires finite embeddings."""
    for kind, vectors in (("sounds", measured.sounds), ("texts", measured.texts)):
        bad = [name for name, vector in vectors.items() if not np.isfinite(vector).all()]
        if bad:
            yield ModelFault(
                f"non_finite_{kind}",
                f"the embeddings of {', '.join(map(repr, bad))} are not finite: check the weights, and try "
                "compute_dtype='float32'",
            )


def check_spread(measured: ProbeEmbeddings) -> Iterator[ModelFault]:
    """Requires towers that tell the probes apart."""
    for kind, tower, vectors in (("sounds", "audio", measured.sounds), ("texts", "text", measured.texts)):
        if not all(np.isfinite(vector).all() for vector in vectors.values()):
            continue
        distance, cosine = largest_distance(vectors), mean_cosine(vectors)
        if distance < SAME:
            yield ModelFault(
                f"dead_{tower}_tower",
                f"all probe {kind} have the same embedding (largest distance {distance:.1e}): the {tower} tower "
                "ignores its input; its weights are not the trained ones, or training collapsed",
            )
        elif cosine > COLLAPSED:
            yield ModelFault(
                f"collapsed_{kind}",
                f"the mean cosine between probe {kind} is {cosine:.4f}, expected less than {COLLAPSED}: the embeddings "
                "collapsed; compare embedding_spread in the run's metrics, and export an earlier step",
            )


def _scale(measured: Measurements) -> Iterator[ModelFault]:
    low, high = SCALES
    if not low <= measured.scale <= high:
        yield ModelFault(
            "scale_out_of_range",
            f"the learned scale (inverse temperature) is {measured.scale:.4g}, expected {low:g} to {high:g}: "
            "the probabilities of `classify` are meaningless; check objectives/contrastive/log_scale",
        )


def _front_end(measured: Measurements) -> Iterator[ModelFault]:
    mean, deviation = measured.normalised
    low, high = NORMALISED_DEVIATION
    if abs(mean) > NORMALISED_MEAN or not low <= deviation <= high:
        yield ModelFault(
            "front_end_level",
            f"the probes' normalised log-mel has mean {mean:.2f} and standard deviation {deviation:.2f}, expected "
            f"within {-NORMALISED_MEAN} to {NORMALISED_MEAN} and {low} to {high}: config.audio.mean and .std are not "
            "those of a natural log-mel of this front end; measure the training data with `slap stats`",
        )


def _vocabulary(measured: Measurements) -> Iterator[ModelFault]:
    if measured.unknown > UNKNOWN or measured.same_tokens:
        yield ModelFault(
            "vocabulary",
            f"{measured.unknown:.0%} of the tokens of plain English texts are unknown to the vocabulary, and "
            f"{measured.same_tokens} pairs of texts have the same tokens: use the vocabulary that the model was "
            "trained with; if its captions are in another language, ignore this",
        )


CHECKS: tuple[Callable[[Measurements], Iterator[ModelFault]], ...] = (
    _weights,
    check_finite,
    check_spread,
    _scale,
    _front_end,
    _vocabulary,
)


def compare_with_fingerprint(
    measured: Measurements, stored: Mapping[str, Any], compute_dtype: str
) -> Iterator[ModelFault]:
    """Requires the values that were stored with the export."""
    changed = [
        name
        for name, values in measured.log_mel.items()
        if name not in stored["log_mel"] or np.abs(np.array(values) - stored["log_mel"][name]).max() > SAME_LOG_MEL
    ]
    if changed:
        yield ModelFault(
            "front_end_mismatch",
            f"the log-mel of the probes {', '.join(changed)} differs from that at the time of the export: "
            "config.audio was changed, or the front end computes other values",
        )
    exact = compute_dtype == "float32" and stored["platform"] == jax.default_backend() == "cpu"
    least = SAME_VECTOR if exact else SAME_VECTOR_ROUNDED
    for kind, vectors in (("sounds", measured.sounds), ("texts", measured.texts)):
        if set(stored[kind]) != set(vectors):
            yield ModelFault(
                f"other_{kind}", f"the fingerprint was computed with other probe {kind}: export the model again"
            )
            continue
        cosine = {name: float(np.dot(vector, stored[kind][name])) for name, vector in vectors.items()}
        worst = min(cosine, key=lambda name: cosine[name] if np.isfinite(cosine[name]) else -2.0)
        if not cosine[worst] >= least:
            yield ModelFault(
                f"other_{kind}",
                f"the embedding of {worst!r} has cosine {cosine[worst]:.4f} with that of the export, expected at least "
                f"{least}: the weights, the settings or the vocabulary were replaced, or this machine computes "
                "other values",
            )
