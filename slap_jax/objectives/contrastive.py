"""Contrastive learning of clips and captions over the global batch: softmax (CLIP) or sigmoid (SigLIP)."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.objectives.source_weights import total_weight, weighted
from slap_jax.objectives.views import LossTerm, Views
from slap_jax.objectives.whole_batch import WholeBatch


def caption_keys(batch: PackedBatch) -> Int[Array, "R K"]:
    """A 32-bit hash of each slot's caption, so that equal captions can be told without leaving the device."""
    tokens = batch.text_tokens.astype(jnp.uint32)
    position = batch.text_positions.astype(jnp.uint32)
    mixed = (tokens + jnp.uint32(1)) * (position * jnp.uint32(0x9E3779B1) + jnp.uint32(0x85EBCA77))
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0xC2B2AE3D)
    mixed = mixed ^ (mixed >> 13)
    slots = batch.clip_valid.shape[1]
    sums = jax.vmap(lambda row, segment: jnp.zeros(slots + 1, jnp.uint32).at[segment].add(row))(
        mixed, batch.text_segments
    )
    return jax.lax.bitcast_convert_type(sums[:, 1:], jnp.int32)


def negative_mask(batch: PackedBatch) -> tuple[Bool[Array, "N N"], Bool[Array, " N"]]:
    """Which pairs (audio i, caption j) may repel each other, and which clips are valid.

    Two clips are no negatives of each other when they are the same recording or carry the same caption.
    """
    valid = batch.clip_valid.reshape(-1)
    clip, caption = batch.clip_key.reshape(-1), caption_keys(batch).reshape(-1)
    same = (clip[:, None] == clip[None]) | (caption[:, None] == caption[None])
    return valid[:, None] & valid[None] & ~same, valid


def softmax_loss(
    audio: Float[Array, "N E"],
    text: Float[Array, "N E"],
    scale: Float[Array, ""],
    negatives: Bool[Array, "N N"],
    valid: Bool[Array, " N"],
    weights: Float[Array, " N"] | None = None,
) -> Float[Array, ""]:
    """Symmetric InfoNCE over the valid clips (CLIP, arXiv 2103.00020), masked pairs left out of the sums.

    With weights, the mean over the anchors is a weighted one; as negatives all clips count alike.
    """
    logits = scale * (audio @ text.T)
    candidates = negatives | (jnp.eye(len(valid), dtype=bool) & valid[:, None])
    # Rows of empty slots keep their own logit, so that no logsumexp is taken of nothing.
    candidates = candidates | jnp.eye(len(valid), dtype=bool)
    masked = jnp.where(candidates, logits, -jnp.inf)
    positive = jnp.diagonal(logits)
    losses = weighted(jax.nn.logsumexp(masked, axis=1) + jax.nn.logsumexp(masked, axis=0) - 2 * positive, weights)
    return jnp.sum(jnp.where(valid, losses, 0.0)) / (2 * total_weight(valid, weights))


def sigmoid_loss(
    audio: Float[Array, "N E"],
    text: Float[Array, "N E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    negatives: Bool[Array, "N N"],
    valid: Bool[Array, " N"],
    weights: Float[Array, " N"] | None = None,
) -> Float[Array, ""]:
    """Sigmoid loss of every pair, summed and divided by the valid clips (SigLIP, arXiv 2303.15343).

    With weights, a pair counts the mean of what its two clips do, and the sum is divided by the sum of the weights.
    """
    logits = scale * (audio @ text.T) + bias
    pair_weights = None if weights is None else (weights[:, None] + weights[None]) / 2
    positive = jnp.where(valid, weighted(jax.nn.log_sigmoid(jnp.diagonal(logits)), weights), 0.0)
    negative = jnp.where(negatives, weighted(jax.nn.log_sigmoid(-logits), pair_weights), 0.0)
    return -(jnp.sum(positive) + jnp.sum(negative)) / total_weight(valid, weights)


class Contrastive(nnx.Module):
    """Pulls a clip's audio and caption together and pushes the other clips' away."""

    teacher_parameters: tuple[str, ...] = ()

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the learnable scale (and bias); `rngs` is unused, both start at fixed values."""
        settings = config.objectives.contrastive
        self.form, self.max_scale = settings.form, settings.max_scale
        init_scale = settings.init_scale or {"softmax": 1 / 0.07, "sigmoid": 10.0}[settings.form]
        self.log_scale = nnx.Param(jnp.asarray(math.log(init_scale), jnp.float32))
        if self.form == "sigmoid":
            self.bias = nnx.Param(jnp.asarray(settings.init_bias, jnp.float32))

    @property
    def scale(self) -> Float[Array, ""]:
        """The inverse temperature, at most `max_scale`."""
        return jnp.minimum(jnp.exp(self.log_scale[...]), self.max_scale)

    def features(self, views: Views) -> dict[str, Array]:
        """Returns the unit vectors of the clips' audio and captions, fp32 [R, K, E]."""
        return {"audio": views.audio_embeddings, "text": views.text_embeddings}

    def loss(self, features: dict[str, Array], whole: WholeBatch) -> LossTerm:
        """Returns the loss over the valid clips of the global batch, weighted by their sources."""
        audio, text = (features[name].astype(jnp.float32) for name in ("audio", "text"))
        audio, text = (x.reshape(-1, x.shape[-1]) for x in (audio, text))
        batch, weights = whole.batch, whole.clip_weights("contrastive")
        if weights is not None:
            batch = batch.replace(clip_valid=weights > 0)  # clips that count nothing are no negatives either
            weights = weights.reshape(-1)
        negatives, valid = negative_mask(batch)
        if self.form == "softmax":
            loss = softmax_loss(audio, text, self.scale, negatives, valid, weights)
        else:
            loss = sigmoid_loss(audio, text, self.scale, self.bias[...], negatives, valid, weights)
        metrics = {
            "temperature": 1.0 / self.scale,
            "embedding_spread": spread(audio, valid),
            "text_embedding_spread": spread(text, valid),
        }
        return LossTerm(loss, metrics)


def spread(embeddings: Float[Array, "N E"], valid: Bool[Array, " N"]) -> Float[Array, ""]:
    """1 minus the squared length of the mean unit vector: 1 when spread out, 0 when all collapsed to one."""
    count = jnp.maximum(jnp.sum(valid), 1)
    mean = jnp.sum(jnp.where(valid[:, None], embeddings, 0.0), axis=0) / count
    return 1.0 - jnp.sum(mean**2)
