"""Sizes that follow from other settings."""

import math

from ml_collections import ConfigDict


def samples_per_column(audio: ConfigDict) -> int:
    """Samples that one time column covers (2,560 in the paper's set-up)."""
    return audio.frames_per_column * audio.hop_length


def patches_per_column(audio: ConfigDict) -> int:
    """F, the frequency patches of one column."""
    return audio.mels // audio.mels_per_patch


def columns_of(seconds: float, audio: ConfigDict) -> int:
    """Columns that a clip of that duration owns: `max(1, ceil(samples / samples_per_column))`."""
    return max(1, math.ceil(round(seconds * audio.sample_rate) / samples_per_column(audio)))


def classes_in_batch(config: ConfigDict) -> int:
    """Y, the classes whose labels are in the batch; 0 where no classification is trained."""
    settings = config.objectives.classification
    return len(settings.classes) if settings.weight > 0 else 0
