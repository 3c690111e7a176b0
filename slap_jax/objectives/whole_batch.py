"""What the losses know of the global batch, in however many parts the towers see it."""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.config import patches_per_column
from slap_jax.models.audio_encoder import token_segments
from slap_jax.objectives.source_weights import clip_weights


class WholeBatch:
    """Facts of the global batch, computed once and only if a loss asks; no tower is run here."""

    def __init__(
        self, batch: PackedBatch, teacher_objectives: Mapping[str, Any], progress: Float[Array, ""], config: ConfigDict
    ):
        """Prepares.

        Args:
            batch: the global packed batch.
            teacher_objectives: the objectives' own modules with the averaged parameters where one asked for them.
            progress: share of the planned steps done, 0 to 1.
            config: the whole configuration.
        """
        self.batch, self.teacher_objectives, self.progress, self.config = batch, teacher_objectives, progress, config
        self.slots = batch.clip_valid.shape[1]

    @functools.cached_property
    def token_segments(self) -> Int[Array, "R L"]:
        """The slot of each audio token, 0 for padding."""
        return token_segments(self.batch.audio_segments, patches_per_column(self.config.audio))

    @functools.cached_property
    def clip_count(self) -> Float[Array, ""]:
        """N, the valid clips of the global batch (at least 1, so that it divides)."""
        return jnp.maximum(jnp.sum(self.batch.clip_valid, dtype=jnp.float32), 1.0)

    def clip_weights(self, objective: str) -> Float[Array, "R K"] | None:
        """What each clip counts in an objective by its source, 0 for empty slots; None where all clips count alike."""
        return clip_weights(self.batch, self.config.data.train, objective)
