"""What the objectives look at: passes of student and teacher, each computed once and only if one asks for it.

What the losses know of the global batch, in however many parts the towers see it.

What a clip counts in an objective: the factors of `config.data.train.NAME.objectives`, looked up on the device.

Each objective is a mean, over clips or over tokens; with factors it is a weighted mean, so only their ratios matter.
Where all sources count alike there are no weights at all, and the program is the one without them.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.config.defaults import patches_per_column
from slap_jax.models.encoders import token_segments
from slap_jax.models.frontend import patches, spec_augment
from slap_jax.models.slap import Slap
from slap_jax.objectives.masking import random_mask


@dataclasses.dataclass(frozen=True)
class LossTerm:
    """One objective's loss, already divided by its global count, and the metrics that it reports."""

    loss: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]


class StepContext:
    """Lazy views of one part of the batch's rows; under `jit`, a view that no objective reads costs nothing.

    Student and teacher share one augmented spectrogram, so that the teacher's targets differ from the student's
    input by the patch mask alone (reference: the paper is silent; DINOv2 and iBOT mask one view the same way).

    Each pass is a call of its own: a device's rows fill its matrix units (16 rows of 2,048 patches are 32,768 rows of
    every product), and one pass at a time needs less memory. Masked and unmasked pass as one call on twice the rows
    would read and gather the weights, and sum their gradients over devices, once instead of twice, but need the space
    of two passes. Compiled for a tower of 12 x 768 with `remat="full"`: on v5e:2x2 with 16 rows a device, 43 instead
    of 86 MB are summed for each three layers, and temporaries are 6.4 instead of 4.1 GB; with `fsdp=8` and 2 rows of
    1,024 patches, 256 instead of 427 MB are gathered, and temporaries are 1.1 instead of 0.6 GB. The sums are below a
    hundredth of the step; memory is what it runs out of.
    """

    def __init__(
        self,
        student: Slap,
        teacher: Slap,
        teacher_objectives: Mapping[str, Any],
        batch: PackedBatch,
        row_numbers: Int[Array, " R"],
        key: PRNGKeyArray,
        config: ConfigDict,
    ):
        """Prepares the views.

        Args:
            student: the model being trained.
            teacher: the same graph with the averaged parameters where an objective asked for them.
            teacher_objectives: the objectives' own modules with the averaged parameters.
            batch: rows of the global batch, or all of them.
            row_numbers: their places in the global batch, from which each row's randomness is derived.
            key: randomness of this step.
            config: the whole configuration.
        """
        self.student, self.teacher, self.teacher_objectives = student, teacher, teacher_objectives
        self.batch, self.config = batch, config
        row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, row_numbers)
        self.augment_keys, self.mask_keys = jnp.moveaxis(jax.vmap(jax.random.split)(row_keys), 1, 0)
        self.slots = batch.clip_valid.shape[1]

    @functools.cached_property
    def token_segments(self) -> Int[Array, "R L"]:
        """The slot of each audio token, 0 for padding."""
        return token_segments(self.batch.audio_segment_ids, patches_per_column(self.config.audio))

    @functools.cached_property
    def patches(self) -> Float[Array, "R L P"]:
        """Normalised, augmented log-mel patches."""
        batch, audio = self.batch, self.config.audio
        mel = self.student.audio_mel(batch.waveform, batch.audio_segment_ids)
        mel = spec_augment(
            self.augment_keys, mel, batch.audio_segment_ids, batch.audio_positions, self.slots, self.config.spec_augment
        )
        return jax.lax.stop_gradient(patches(mel, audio))

    @functools.cached_property
    def mask(self) -> Bool[Array, "R L"]:
        """The patches that the student does not see: a random share of every clip's."""
        ratio = self.config.objectives.distillation.mask_ratio
        return random_mask(self.mask_keys, self.token_segments, self.slots, ratio)

    @functools.cached_property
    def masked_audio_tokens(self) -> Float[Array, "R L D"]:
        """The student's dense features of the masked view."""
        return self.student.audio_tokens(
            self.patches, self.batch.audio_segment_ids, self.batch.audio_positions, mask=self.mask
        )

    @functools.cached_property
    def audio_tokens(self) -> Float[Array, "R L D"]:
        """The student's dense features, before pooling, that the contrastive and captioning objectives read."""
        distillation = self.config.objectives.distillation
        if distillation.weight > 0 and distillation.view == "shared":
            return self.masked_audio_tokens
        return self.student.audio_tokens(self.patches, self.batch.audio_segment_ids, self.batch.audio_positions)

    @functools.cached_property
    def teacher_audio_tokens(self) -> Float[Array, "R L D"]:
        """The teacher's dense features of the unmasked view, without gradient."""
        tokens = self.teacher.audio_tokens(self.patches, self.batch.audio_segment_ids, self.batch.audio_positions)
        return jax.lax.stop_gradient(tokens)

    @functools.cached_property
    def pooled_audio(self) -> Float[Array, "R K D"]:
        """The clips' audio features after pooling, before the projection."""
        return self.student.audio_pooling(self.audio_tokens, self.token_segments, self.slots)

    @functools.cached_property
    def audio_embeddings(self) -> Float[Array, "R K E"]:
        """Unit vectors of the clips' audio."""
        return self.student.audio_embeddings(self.audio_tokens, self.batch.audio_segment_ids, self.slots)

    @functools.cached_property
    def text_embeddings(self) -> Float[Array, "R K E"]:
        """Unit vectors of the clips' captions."""
        batch = self.batch
        tokens = self.student.text_tokens(batch.text_tokens, batch.text_segment_ids, batch.text_positions)
        return self.student.text_embeddings(tokens, batch.text_segment_ids, self.slots)


class BatchContext:
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
        return token_segments(self.batch.audio_segment_ids, patches_per_column(self.config.audio))

    @functools.cached_property
    def clip_count(self) -> Float[Array, ""]:
        """N, the valid clips of the global batch (at least 1, so that it divides)."""
        return jnp.maximum(jnp.sum(self.batch.clip_valid, dtype=jnp.float32), 1.0)

    def clip_weights(self, objective: str) -> Float[Array, "R K"] | None:
        """What each clip counts in an objective by its source, 0 for empty slots; None where all clips count alike."""
        return clip_weights(self.batch, self.config.data.train, objective)


def clip_weights(batch: PackedBatch, sources: ConfigDict, objective: str) -> Float[Array, "R K"] | None:
    """Returns what each clip counts in an objective, 0 for empty slots; None where all sources count alike.

    Args:
        batch: of which `clip_source` and `clip_valid` are read.
        sources: `config.data.train`, in whose order `clip_source` numbers the sources.
        objective: key of each source's `objectives`.
    """
    factors = [float(sources[name].objectives[objective]) for name in sources]
    if len(set(factors)) <= 1:
        return None
    return jnp.where(batch.clip_valid, jnp.asarray(factors, jnp.float32)[batch.clip_source], 0.0)


def token_weights(weights: Float[Array, "R K"], segments: Int[Array, "R L"]) -> Float[Array, "R L"]:
    """Gives every token what its clip counts, and padding (segment 0) nothing."""
    return jnp.take_along_axis(jnp.pad(weights, ((0, 0), (1, 0))), segments, axis=1)


def weighted(values: Shaped[Array, "..."], weights: Float[Array, "..."] | None) -> Shaped[Array, "..."]:
    """Multiplies by the weights, if there are any."""
    return values if weights is None else values * weights


def total_weight(counted: Bool[Array, "..."], weights: Float[Array, "..."] | None) -> Array:
    """The sum of the weights of what is counted, or its number without weights; 1 for nothing, so that it divides."""
    if weights is None:
        return jnp.maximum(jnp.sum(counted), 1)
    total = jnp.sum(jnp.where(counted, weights, 0.0))
    return jnp.where(total > 0, total, 1.0)
