"""The diagnosis of a model: its findings, its measures and its invariances."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.checkpoints.hub import find_export
from slap_jax.checkpoints.model_dir import WEIGHTS
from slap_jax.checkpoints.read_model import read_model
from slap_jax.data.audio import AudioError
from slap_jax.doctor.findings import (
    CHECKS,
    ModelFault,
    check_finite,
    check_spread,
    compare_with_fingerprint,
    read_fingerprint,
    summary,
    summary_of_embeddings,
)
from slap_jax.doctor.invariance import Invariance, beginning, built_in_sounds, measure_invariance
from slap_jax.doctor.measure import measure_model, measure_other_model
from slap_jax.inference.audio_input import Audio, load_audio
from slap_jax.inference.embedder import Embedder
from slap_jax.other_models.load import is_other_model, load_other_model

# What to do about embeddings that move with a change, by its group.
ADVICE: Mapping[str, str] = {
    "level": "bring recordings to the level of the training data, or train with config.data.augment.gain_db",
    "lead-in": "trim the silence before sounds, or train with config.data.augment.lead_in_seconds",
    "codec": "compare only recordings of one codec, or train on clips that were compressed",
    "rate": "resample all recordings to the rate of the model with one tool, before anything else",
    "channels": "mix all recordings to mono at one level, or train with config.data.augment.gain_db",
}


def diagnose(
    model: str | os.PathLike[str], sounds: Sequence[Audio] | None = None, *, invariance: bool = True
) -> dict[str, Any]:
    """Checks a model.

    Args:
        model: An export, a run directory, whose newest checkpoint is checked, or a model of another family, as for
            `slap_jax.other_models.load.load_model`. Of the latter, only what it computes is checked.
        sounds: Recordings for the invariances, of which the first 10 s are used; None for the built-in sounds.
        invariance: Whether to measure the invariances, which embeds each sound about 25 times.

    Returns:
        JSON values: `model`, `step` (None for other families), `healthy`, `findings` (name and message), `measures`,
        `fingerprint`: "same", "other", or "none" if the model has none, `invariance` (see `Invariance`), `warnings`,
        which are like `findings` but do not make a model unhealthy, and `left_out`: the `file` and `reason` of each
        sound that was not used.

    Raises:
        ExportError: The directory holds no model, or a file is damaged.
        OtherModelError: A model of another family cannot be read.
        AudioError: None of `sounds` can be used.
    """
    examined = _examine_other(model) if is_other_model(model) else _examine(model)
    finite = not any(fault.name.startswith("non_finite") for fault in examined.faults)
    invariances: list[Invariance] = []
    left_out: list[dict[str, str]] = []
    if invariance and finite:
        rate = examined.sample_rate
        given = built_in_sounds(rate) if sounds is None else _usable(sounds, rate, left_out)
        invariances = measure_invariance(examined.embed_audio, given, rate)
    return {
        "model": os.fspath(model),
        "step": examined.step,
        "healthy": not examined.faults,
        "findings": [dataclasses.asdict(fault) for fault in examined.faults],
        "fingerprint": examined.fingerprint,
        "measures": examined.summarise() if finite else {},
        "invariance": [dataclasses.asdict(item) for item in invariances],
        "warnings": [dataclasses.asdict(warning) for warning in invariance_warnings(invariances)],
        "left_out": left_out,
    }


def invariance_warnings(measured: Sequence[Invariance]) -> Iterator[ModelFault]:
    """Yields a warning for each group with a change that moves the embeddings by more than expected."""
    for group in dict.fromkeys(item.group for item in measured):
        moved = [item for item in measured if item.group == group and item.median < (item.expected or -1.0)]
        if moved:
            changes = ", ".join(f"{item.name}: {item.median:.2f}" for item in moved)
            yield ModelFault(
                f"varies_with_{group.replace('-', '_')}",
                f"the median cosine of a sound with itself is below {moved[0].expected:g} after a change of {group} "
                f"({changes}): {ADVICE[group]}",
            )


@dataclasses.dataclass(frozen=True)
class _Examined:
    """What the diagnosis needs of a model of any family."""

    step: int | None
    fingerprint: str
    faults: list[ModelFault]
    summarise: Callable[[], dict[str, float]]
    embed_audio: Callable[[Sequence[Any]], Float[np.ndarray, "n E"]]
    sample_rate: int


def _examine(directory: str | os.PathLike[str]) -> _Examined:
    """Checks an export or a run."""
    directory = find_export(directory)
    export = read_model(directory)
    embedder, rate = Embedder(export.config), export.config.audio.sample_rate
    measured = measure_model(export, embedder)
    faults = [fault for check in CHECKS for fault in check(measured)]
    stored = read_fingerprint(directory) if (Path(directory) / WEIGHTS).is_file() else None
    changed = []
    if stored is not None:
        changed = list(compare_with_fingerprint(measured, stored, export.config.model.compute_dtype))
    return _Examined(
        step=export.step,
        fingerprint="none" if stored is None else "other" if changed else "same",
        faults=faults + changed,
        summarise=lambda: summary(measured),
        embed_audio=lambda clips: embedder.audio(export.params["model"], [load_audio(clip, rate) for clip in clips]),
        sample_rate=rate,
    )


def _examine_other(source: str | os.PathLike[str]) -> _Examined:
    """Checks what a model of another family computes."""
    model = load_other_model(source)
    measured = measure_other_model(model)
    return _Examined(
        step=None,
        fingerprint="none",
        faults=[fault for check in (check_finite, check_spread) for fault in check(measured)],
        summarise=lambda: summary_of_embeddings(measured),
        embed_audio=model.embed_audio,
        sample_rate=model.sample_rate,
    )


def _usable(sounds: Sequence[Audio], rate: int, left_out: list[dict[str, str]]) -> list[Float[np.ndarray, " n"]]:
    """Reads the sounds, and adds to `left_out` those that cannot be used."""
    usable = []
    for number, sound in enumerate(sounds):
        try:
            usable.append(beginning(sound, rate))
        except AudioError as error:
            name = os.fspath(sound) if isinstance(sound, (str, os.PathLike)) else f"sound {number}"
            left_out.append({"file": name, "reason": str(error)})
    if not usable:
        reasons = "; ".join(item["reason"] for item in left_out[:3])
        raise AudioError(f"none of {len(sounds)} sounds can be used: {reasons}")
    return usable
