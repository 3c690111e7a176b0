"""Shared by the objectives: the context of a step, the context of a batch, the patch mask and clip weights.

`StepContext` belongs to the rows of one forward pass. It runs each pass of student and teacher once, and only if an
objective reads the result. `BatchContext` belongs to the global batch, even if the forward pass computes it in parts.

Every objective is a mean over clips or tokens. Each source of training data may weight its clips in each objective
(`config.data.train.NAME.objectives`). The mean is then a weighted mean, so only the ratios of the weights matter. If
all sources have the same weight, the program is the one without weights.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, Shaped
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.config.defaults import patches_per_column
from slap_jax.models.encoders import token_segment_ids
from slap_jax.models.frontend import patches, spec_augment
from slap_jax.models.slap import Slap


@dataclasses.dataclass(frozen=True)
class LossTerm:
    """One objective's loss, already divided by its global count, and the metrics that it reports."""

    loss: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]


class StepContext:
    """Lazily computed tensors for some rows of the batch; under `jit`, one that no objective reads costs nothing.

    Student and teacher share one augmented spectrogram, so the teacher's input differs from the student's only by the
    patch mask (the paper does not say; DINOv2 and iBOT mask one view in the same way).

    The masked and the unmasked pass are two calls of the tower rather than one on twice the rows. A device's rows
    already fill its matrix units (16 rows of 2,048 patches are 32,768 rows in every matrix product), and two passes in
    sequence need less memory. One call would gather the weights and sum their gradients over devices once instead of
    twice, but hold the activations of both. Compiled for a tower of 12 x 768 with `remat="full"`: on v5e:2x2 with 16
    rows per device, it sums 43 instead of 86 MB for every three layers, and its temporaries are 6.4 instead of 4.1 GB;
    with `fsdp=8` and 2 rows of 1,024 patches, it gathers 256 instead of 427 MB, with 1.1 instead of 0.6 GB of
    temporaries. The sums take less than a hundredth of the step; memory is the limit.
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
        """Derives the random keys of each row; every tensor is computed on first use.

        Args:
            student: the model being trained.
            teacher: the same graph, with averaged parameters where an objective asked for them.
            teacher_objectives: the objectives' own modules with averaged parameters.
            batch: some or all rows of the global batch.
            row_numbers: indices of these rows in the global batch; each row's randomness depends on its index.
            key: randomness of this step.
            config: the whole configuration.
        """
        self.student, self.teacher, self.teacher_objectives = student, teacher, teacher_objectives
        self.batch, self.config = batch, config
        row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, row_numbers)
        self.augment_keys, self.mask_keys = jnp.moveaxis(jax.vmap(jax.random.split)(row_keys), 1, 0)
        self.slots = batch.clip_valid.shape[1]

    @functools.cached_property
    def token_segment_ids(self) -> Int[Array, "R L"]:
        """Segment id of each audio token, 0 for padding."""
        return token_segment_ids(self.batch.audio_segment_ids, patches_per_column(self.config.audio))

    @functools.cached_property
    def patches(self) -> Float[Array, "R L P"]:
        """Normalised and augmented log-mel patches."""
        batch, audio = self.batch, self.config.audio
        mel = self.student.audio_mel(batch.waveform, batch.audio_segment_ids)
        mel = spec_augment(
            self.augment_keys, mel, batch.audio_segment_ids, batch.audio_positions, self.slots, self.config.spec_augment
        )
        return jax.lax.stop_gradient(patches(mel, audio))

    @functools.cached_property
    def mask(self) -> Bool[Array, "R L"]:
        """Patches hidden from the student: a random fraction of each clip's."""
        ratio = self.config.objectives.distillation.mask_ratio
        return random_mask(self.mask_keys, self.token_segment_ids, self.slots, ratio)

    @functools.cached_property
    def masked_audio_tokens(self) -> Float[Array, "R L D"]:
        """The student's dense features of the masked patches."""
        return self.student.audio_tokens(
            self.patches, self.batch.audio_segment_ids, self.batch.audio_positions, mask=self.mask
        )

    @functools.cached_property
    def audio_tokens(self) -> Float[Array, "R L D"]:
        """The student's dense features for the contrastive, captioning and classification objectives."""
        distillation = self.config.objectives.distillation
        if distillation.weight > 0 and distillation.view == "shared":
            return self.masked_audio_tokens
        return self.student.audio_tokens(self.patches, self.batch.audio_segment_ids, self.batch.audio_positions)

    @functools.cached_property
    def teacher_audio_tokens(self) -> Float[Array, "R L D"]:
        """The teacher's dense features of all patches, without gradient."""
        tokens = self.teacher.audio_tokens(self.patches, self.batch.audio_segment_ids, self.batch.audio_positions)
        return jax.lax.stop_gradient(tokens)

    @functools.cached_property
    def pooled_audio(self) -> Float[Array, "R K D"]:
        """Audio features of each clip after pooling, before the projection."""
        return self.student.audio_pooling(self.audio_tokens, self.token_segment_ids, self.slots)

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
    """Lazily computed facts of the global batch; no tower runs here."""

    def __init__(
        self, batch: PackedBatch, teacher_objectives: Mapping[str, Any], progress: Float[Array, ""], config: ConfigDict
    ):
        """Describes one batch; facts are computed on first use.

        Args:
            batch: the global packed batch.
            teacher_objectives: the objectives' own modules, with averaged parameters where one asked for them.
            progress: fraction of the planned steps done, 0 to 1.
            config: the whole configuration.
        """
        self.batch, self.teacher_objectives, self.progress, self.config = batch, teacher_objectives, progress, config

    @functools.cached_property
    def clip_count(self) -> Float[Array, ""]:
        """N, the number of valid clips in the global batch, but at least 1 since it is a divisor."""
        return jnp.maximum(jnp.sum(self.batch.clip_valid, dtype=jnp.float32), 1.0)

    def clip_weights(self, objective: str) -> Float[Array, "R K"] | None:
        """Returns the weight of each clip in an objective, as `clip_weights` does."""
        return clip_weights(self.batch, self.config.data.train, objective)


def random_mask(keys: Key[Array, " R"], segment_ids: Int[Array, "R L"], slots: int, ratio: float) -> Bool[Array, "R L"]:
    """Masks `round(ratio * n)` of the n tokens of each clip, uniformly at random.

    Args:
        keys: randomness of each row, so that a row's mask does not depend on other rows.
        segment_ids: segment of each token, 0 for padding, which is never masked.
        slots: K.
        ratio: fraction to mask.

    Returns:
        True where the student sees the mask token.
    """
    length = segment_ids.shape[1]
    noise = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys)
    index = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), segment_ids.shape)
    # Sorted by (segment, noise), each clip's tokens are contiguous and in random order.
    _, _, order = jax.lax.sort((segment_ids, noise, index), num_keys=2)
    _, place = jax.lax.sort((order, index), num_keys=1)  # the inverse permutation
    counts = segment_counts(segment_ids, slots)
    starts = jnp.cumsum(counts, axis=1) - counts
    num_masked = jnp.round(ratio * counts).astype(jnp.int32)
    rank_in_clip = place - jnp.take_along_axis(starts, segment_ids, axis=1)
    return (rank_in_clip < jnp.take_along_axis(num_masked, segment_ids, axis=1)) & (segment_ids > 0)


def segment_counts(segment_ids: Int[Array, "R L"], slots: int) -> Int[Array, "R K+1"]:
    """Counts the tokens of each segment; index 0 counts the padding."""
    return jax.vmap(lambda row: jnp.zeros(slots + 1, jnp.int32).at[row].add(1))(segment_ids)


def clip_weights(batch: PackedBatch, sources: ConfigDict, objective: str) -> Float[Array, "R K"] | None:
    """Returns the weight of each clip in an objective, 0 for empty slots; None if all sources have the same weight.

    Args:
        batch: `clip_source` and `clip_valid` are read.
        sources: `config.data.train`, in whose order `clip_source` numbers the sources.
        objective: key into each source's `objectives`.
    """
    factors = [float(sources[name].objectives[objective]) for name in sources]
    if len(set(factors)) <= 1:
        return None
    return jnp.where(batch.clip_valid, jnp.asarray(factors, jnp.float32)[batch.clip_source], 0.0)


def token_weights(weights: Float[Array, "R K"], segment_ids: Int[Array, "R L"]) -> Float[Array, "R L"]:
    """Gives every token the weight of its clip, and padding 0."""
    return jnp.take_along_axis(jnp.pad(weights, ((0, 0), (1, 0))), segment_ids, axis=1)


def weighted(values: Shaped[Array, "..."], weights: Float[Array, "..."] | None) -> Shaped[Array, "..."]:
    """Multiplies by the weights, if there are any."""
    return values if weights is None else values * weights


def total_weight(counted: Bool[Array, "..."], weights: Float[Array, "..."] | None) -> Array:
    """Sums the weights of the counted elements, or counts them if there are no weights; 1 instead of 0."""
    if weights is None:
        return jnp.maximum(jnp.sum(counted), 1)
    total = jnp.sum(jnp.where(counted, weights, 0.0))
    return jnp.where(total > 0, total, 1.0)
