"""Sigmoid loss of audio and captions (SigLIP) over all pairs of the global batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from slap_jax.objectives.all_pairs import Clips, exact_product, over_all_pairs
from slap_jax.objectives.negatives import ClipKeys, are_negatives
from slap_jax.objectives.source_weights import total_weight, weighted


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


def _forward(
    audio: Float[Array, "N E"],
    biases: Float[Array, " N"],
    text: Float[Array, "N E"],
    keys: ClipKeys,
    weights: Float[Array, " N"] | None,
    block: int,
) -> tuple[Float[Array, " N"], tuple[Clips, Clips]]:
    saved = ((audio, biases, keys, weights), (text, keys, weights))
    return loss_of_negatives(audio, biases, text, keys, weights, block), saved


def _backward(
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


# No score is kept for the backward pass, which computes them again.
_loss_of_negatives = jax.custom_vjp(loss_of_negatives, nondiff_argnums=(5,))
_loss_of_negatives.defvjp(_forward, _backward)
