"""Symmetric softmax loss of audio and captions (InfoNCE as in CLIP) over all pairs of the global batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from slap_jax.objectives.all_pairs import Clips, exact_product, over_all_pairs
from slap_jax.objectives.negatives import ClipKeys, are_negatives
from slap_jax.objectives.source_weights import total_weight, weighted


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


def _forward(
    audio: Float[Array, "N E"], text: Float[Array, "N E"], keys: ClipKeys, block: int
) -> tuple[tuple[Array, Array], tuple[Clips, Clips]]:
    of_audio, of_text = logsumexp_of_negatives(audio, text, keys, block)
    return (of_audio, of_text), ((audio, keys, of_audio), (text, keys, of_text))


def _backward(block: int, saved: tuple[Clips, Clips], pulls: tuple[Array, Array]) -> tuple[Array, Array, None]:
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
_logsumexp_of_negatives.defvjp(_forward, _backward)
