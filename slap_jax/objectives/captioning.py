"""Captioning: the decoder predicts each caption token from the ones before it and the clip's dense features."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Int
from ml_collections import ConfigDict

from slap_jax.models.caption_decoder import CaptionDecoder
from slap_jax.objectives.source_weights import token_weights, total_weight, weighted
from slap_jax.objectives.views import LossTerm, Views
from slap_jax.objectives.vocabulary import token_losses
from slap_jax.objectives.whole_batch import WholeBatch


def next_tokens(tokens: Int[Array, "R T"], segments: Int[Array, "R T"]) -> tuple[Int[Array, "R T"], Bool[Array, "R T"]]:
    """The token that follows each one in its own caption, and where there is one."""
    following = jnp.roll(tokens, -1, axis=1)
    same = (jnp.roll(segments, -1, axis=1) == segments) & (segments > 0)
    return following, same.at[:, -1].set(False)


class Captioning(nnx.Module):
    """Token cross-entropy with teacher forcing, averaged over all real tokens of the global batch.

    Where sources count differently, every token counts as much as its clip does.
    """

    teacher_parameters: tuple[str, ...] = ()

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the caption decoder, which training needs and `export` keeps."""
        self.vocabulary_chunk = config.objectives.captioning.vocabulary_chunk
        self.decoder = CaptionDecoder(config.model, config.model.audio_encoder.width, rngs=rngs)

    def features(self, views: Views) -> dict[str, Array]:
        """Returns every token's cross-entropy in nats, and whether the likeliest token is the next one, [R, T]."""
        batch = views.batch
        hidden = self.decoder(
            batch.text_tokens, batch.text_segments, batch.text_positions, views.audio_tokens, views.token_segments
        )
        targets, real = next_tokens(batch.text_tokens, batch.text_segments)
        losses, correct = token_losses(hidden, self.decoder.embedding.table[...], targets, real, self.vocabulary_chunk)
        return {"losses": losses, "correct": correct}

    def loss(self, features: dict[str, Array], whole: WholeBatch) -> LossTerm:
        """Returns the mean cross-entropy in nats per token."""
        batch, weights = whole.batch, whole.clip_weights("captioning")
        _, real = next_tokens(batch.text_tokens, batch.text_segments)
        if weights is not None:
            weights = token_weights(weights, batch.text_segments)
        count = total_weight(real, weights)
        accuracy = jnp.sum(weighted(real & features["correct"], weights)) / count
        loss = jnp.sum(jnp.where(real, weighted(features["losses"], weights), 0.0)) / count
        return LossTerm(loss, {"caption_token_accuracy": accuracy})
