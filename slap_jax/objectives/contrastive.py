"""Sigmoid loss of audio and captions (SigLIP) over all pairs of the global batch.

Symmetric softmax loss of audio and captions (InfoNCE as in CLIP) over all pairs of the global batch.

Contrastive learning of clips and captions over the global batch: softmax (CLIP) or sigmoid (SigLIP).

Which clips of the batch may repel each other.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.objectives.all_pairs import Clips, exact_product, over_all_pairs
from slap_jax.objectives.base import BatchContext, LossTerm, StepContext, total_weight, weighted
from slap_jax.parallel.sharding import BATCH_SPEC, constrain


@flax.struct.dataclass
class ClipKeys:
    """What decides whether two clips are negatives of each other.

    Attributes:
        valid: the slot holds a clip that counts.
        recording: equal for clips of the same recording.
        caption: equal for clips with the same caption.
    """

    valid: Bool[Array, " N"]
    recording: Int[Array, " N"]
    caption: Int[Array, " N"]


def sigmoid_loss(
    audio: Float[Array, "N E"],
    text: Float[Array, "N E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    keys: ClipKeys,
    weights: Float[Array, " N"] | None = None,
    block: int = 1_024,
) -> Float[Array, ""]:
    """Sigmoid loss of every pair, summed and divided by the valid clips (SigLIP, arXiv 2303.15343).

    With weights, a pair counts the mean of what its two clips do, and the sum is divided by the sum of the weights.

    Args:
        audio: unit vectors; empty slots have any.
        text: unit vectors of the captions.
        scale: inverse temperature.
        bias: added to the scores.
        keys: which clips count, and which are no negatives.
        weights: of the clips, 0 for empty slots.
        block: a device scores at most `block` x `block` pairs at a time.
    """
    audio = scale * audio
    biases = jnp.broadcast_to(bias, keys.valid.shape)  # one for each audio: everything is then an array of clips
    positive = weighted(jax.nn.softplus(-jnp.sum(audio * text, axis=-1) - biases), weights)
    negative = _loss_of_negatives(audio, biases, text, keys, weights, block)
    return (jnp.sum(jnp.where(keys.valid, positive, 0.0)) + jnp.sum(negative)) / total_weight(keys.valid, weights)


def loss_of_negatives(
    audio: Float[Array, "N E"],
    biases: Float[Array, " N"],
    text: Float[Array, "N E"],
    keys: ClipKeys,
    weights: Float[Array, " N"] | None,
    block: int,
) -> Float[Array, " N"]:
    """Returns the sum of softplus(score + bias) over the negatives of each audio, weighted by pair."""

    def tile(audio: Clips, text: Clips) -> tuple[Clips, Clips]:
        (audio, biases, *audio_facts), (text, *text_facts) = audio, text
        losses = jax.nn.softplus(exact_product(audio, text.T) + biases[:, None])
        return jnp.sum(_of_negatives(losses, audio_facts, text_facts), axis=1), ()

    return over_all_pairs(tile, (audio, biases, keys, weights), (text, keys, weights), block)[0]


def _of_negatives(values: Float[Array, "N M"], audio_facts: Clips, text_facts: Clips) -> Float[Array, "N M"]:
    """Weights the values of pairs, and leaves 0 of those that are no negatives."""
    (audio_keys, audio_weights), (text_keys, text_weights) = audio_facts, text_facts
    weights = None if audio_weights is None else (audio_weights[:, None] + text_weights) / 2
    return jnp.where(are_negatives(audio_keys, text_keys), weighted(values, weights), 0.0)


def _sigmoid_forward(
    audio: Float[Array, "N E"],
    biases: Float[Array, " N"],
    text: Float[Array, "N E"],
    keys: ClipKeys,
    weights: Float[Array, " N"] | None,
    block: int,
) -> tuple[Float[Array, " N"], tuple[Clips, Clips]]:
    saved = ((audio, biases, keys, weights), (text, keys, weights))
    return loss_of_negatives(audio, biases, text, keys, weights, block), saved


def _sigmoid_backward(
    block: int, saved: tuple[Clips, Clips], pulls: Float[Array, " N"]
) -> tuple[Array, Array, Array, None, None]:
    def tile(audio: Clips, text: Clips) -> tuple[Clips, Clips]:
        (pulls, (audio, biases, *audio_facts)), (text, *text_facts) = audio, text
        pull = pulls[:, None] * jax.nn.sigmoid(exact_product(audio, text.T) + biases[:, None])
        pull = _of_negatives(pull, audio_facts, text_facts)
        return (exact_product(pull, text), jnp.sum(pull, axis=1)), exact_product(pull.T, audio)

    audio, text = saved
    (to_audio, to_biases), to_text = over_all_pairs(tile, (pulls, audio), text, block)
    return to_audio, to_biases, to_text, None, None


def are_negatives(audio: ClipKeys, text: ClipKeys) -> Bool[Array, "N M"]:
    """Which pairs (audio i, caption j) may repel each other.

    Two clips are no negatives of each other when they are the same recording or carry the same caption.
    """
    same = (audio.recording[:, None] == text.recording) | (audio.caption[:, None] == text.caption)
    return audio.valid[:, None] & text.valid & ~same


# No score is kept for the backward pass, which computes them again.
_loss_of_negatives = jax.custom_vjp(loss_of_negatives, nondiff_argnums=(5,))


_loss_of_negatives.defvjp(_sigmoid_forward, _sigmoid_backward)


def softmax_loss(
    audio: Float[Array, "N E"],
    text: Float[Array, "N E"],
    scale: Float[Array, ""],
    keys: ClipKeys,
    weights: Float[Array, " N"] | None = None,
    block: int = 1_024,
) -> Float[Array, ""]:
    """Symmetric InfoNCE over the valid clips (CLIP, arXiv 2103.00020); pairs that are no negatives are left out.

    With weights, the mean over the anchors is a weighted one; as negatives all clips count alike.

    Args:
        audio: unit vectors; empty slots have any.
        text: unit vectors of the captions.
        scale: inverse temperature.
        keys: which clips count, and which are no negatives.
        weights: of the clips, 0 for empty slots.
        block: a device scores at most `block` x `block` pairs at a time.
    """
    audio = scale * audio
    positive = jnp.sum(audio * text, axis=-1)
    of_audio, of_text = _logsumexp_of_negatives(audio, text, keys, block)
    # log(exp(positive) + exp(negatives)) - positive, which is 0 for a clip without negatives.
    losses = jax.nn.softplus(of_audio - positive) + jax.nn.softplus(of_text - positive)
    losses = jnp.where(keys.valid, weighted(losses, weights), 0.0)
    return jnp.sum(losses) / (2 * total_weight(keys.valid, weights))


def logsumexp_of_negatives(
    audio: Float[Array, "N E"], text: Float[Array, "N E"], keys: ClipKeys, block: int
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Returns the logarithm of the sum of exp(score) over the negatives of each audio, and of each caption.

    It is -inf where there are none.
    """

    def tile(audio: Clips, text: Clips) -> tuple[Clips, Clips]:
        (audio, audio_keys), (text, text_keys) = audio, text
        found = jnp.where(are_negatives(audio_keys, text_keys), exact_product(audio, text.T), -jnp.inf)
        return jax.nn.logsumexp(found, axis=1), jax.nn.logsumexp(found, axis=0)

    return over_all_pairs(tile, (audio, keys), (text, keys), block, merge=jnp.logaddexp, nothing=-jnp.inf)


def _softmax_forward(
    audio: Float[Array, "N E"], text: Float[Array, "N E"], keys: ClipKeys, block: int
) -> tuple[tuple[Array, Array], tuple[Clips, Clips]]:
    of_audio, of_text = logsumexp_of_negatives(audio, text, keys, block)
    return (of_audio, of_text), ((audio, keys, of_audio), (text, keys, of_text))


def _softmax_backward(block: int, saved: tuple[Clips, Clips], pulls: tuple[Array, Array]) -> tuple[Array, Array, None]:
    def tile(audio: Clips, text: Clips) -> tuple[Clips, Clips]:
        ((audio, audio_keys, of_audio), audio_pull), ((text, text_keys, of_text), text_pull) = audio, text
        found = exact_product(audio, text.T)
        pull = audio_pull[:, None] * jnp.exp(found - of_audio[:, None]) + text_pull * jnp.exp(found - of_text)
        pull = jnp.where(are_negatives(audio_keys, text_keys), pull, 0.0)
        return exact_product(pull, text), exact_product(pull.T, audio)

    audio, text = saved
    return (*over_all_pairs(tile, (audio, pulls[0]), (text, pulls[1]), block), None)


# No score is kept for the backward pass, which computes them again.
_logsumexp_of_negatives = jax.custom_vjp(logsumexp_of_negatives, nondiff_argnums=(3,))


_logsumexp_of_negatives.defvjp(_softmax_forward, _softmax_backward)


class Contrastive(nnx.Module):
    """Pulls a clip's audio and caption together and pushes the other clips' away."""

    teacher_parameters: tuple[str, ...] = ()

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the learnable scale (and bias); `rngs` is unused, both start at fixed values."""
        settings = config.objectives.contrastive
        self.form, self.max_scale, self.block = settings.form, settings.max_scale, settings.block
        init_scale = settings.init_scale or {"softmax": 1 / 0.07, "sigmoid": 10.0}[settings.form]
        self.log_scale = nnx.Param(jnp.asarray(math.log(init_scale), jnp.float32))
        if self.form == "sigmoid":
            self.bias = nnx.Param(jnp.asarray(settings.init_bias, jnp.float32))

    @property
    def scale(self) -> Float[Array, ""]:
        """The inverse temperature, at most `max_scale`."""
        return jnp.minimum(jnp.exp(self.log_scale[...]), self.max_scale)

    def forward(self, context: StepContext) -> dict[str, Array]:
        """Returns the unit vectors of the clips' audio and captions, fp32 [R, K, E]."""
        return {"audio": context.audio_embeddings, "text": context.text_embeddings}

    def loss(self, outputs: dict[str, Array], context: BatchContext) -> LossTerm:
        """Returns the loss over the valid clips of the global batch, weighted by their sources."""
        # The losses split the clips over `tensor` too; their gradients return to the towers by rows again.
        audio, text = (constrain(outputs[name].astype(jnp.float32), BATCH_SPEC) for name in ("audio", "text"))
        audio, text = (x.reshape(-1, x.shape[-1]) for x in (audio, text))
        batch, weights = context.batch, context.clip_weights("contrastive")
        if weights is not None:
            batch = batch.replace(clip_valid=weights > 0)  # clips that count nothing are no negatives either
            weights = weights.reshape(-1)
        keys = clip_keys(batch)
        if self.form == "softmax":
            loss = softmax_loss(audio, text, self.scale, keys, weights, self.block)
        else:
            loss = sigmoid_loss(audio, text, self.scale, self.bias[...], keys, weights, self.block)
        metrics = {
            "temperature": 1.0 / self.scale,
            "embedding_spread": spread(audio, keys.valid),
            "text_embedding_spread": spread(text, keys.valid),
        }
        return LossTerm(loss, metrics)


def spread(embeddings: Float[Array, "N E"], valid: Bool[Array, " N"]) -> Float[Array, ""]:
    """1 minus the squared length of the mean unit vector: 1 when spread out, 0 when all collapsed to one."""
    count = jnp.maximum(jnp.sum(valid), 1)
    mean = jnp.sum(jnp.where(valid[:, None], embeddings, 0.0), axis=0) / count
    return 1.0 - jnp.sum(mean**2)


def clip_keys(batch: PackedBatch) -> ClipKeys:
    """Returns the keys of all slots of a batch, N = R x K of them."""
    return ClipKeys(batch.clip_valid.reshape(-1), batch.clip_key.reshape(-1), caption_keys(batch).reshape(-1))


def caption_keys(batch: PackedBatch) -> Int[Array, "R K"]:
    """A 32-bit hash of each slot's caption, so that equal captions can be told without leaving the device."""
    tokens = batch.text_tokens.astype(jnp.uint32)
    position = batch.text_positions.astype(jnp.uint32)
    mixed = (tokens + jnp.uint32(1)) * (position * jnp.uint32(0x9E3779B1) + jnp.uint32(0x85EBCA77))
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0xC2B2AE3D)
    mixed = mixed ^ (mixed >> 13)
    slots = batch.clip_valid.shape[1]
    sums = jax.vmap(lambda row, segment: jnp.zeros(slots + 1, jnp.uint32).at[segment].add(row))(
        mixed, batch.text_segment_ids
    )
    return jax.lax.bitcast_convert_type(sums[:, 1:], jnp.int32)
