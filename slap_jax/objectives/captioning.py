"""Captioning: the decoder predicts each caption token from the ones before it and the clip's dense features."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from slap_jax.models.caption_decoder import CaptionDecoder
from slap_jax.objectives.views import LossTerm, Views


def next_tokens(
    tokens: Int[Array, "R T"], segments: Int[Array, "R T"]
) -> tuple[Int[Array, "R T"], Bool[Array, "R T"]]:
    """The token that follows each one in its own caption, and where there is one."""
    following = jnp.roll(tokens, -1, axis=1)
    same = (jnp.roll(segments, -1, axis=1) == segments) & (segments > 0)
    return following, same.at[:, -1].set(False)


class Captioning(nnx.Module):
    """Token cross-entropy with teacher forcing, averaged over all real tokens of the global batch."""

    teacher_parameters: tuple[str, ...] = ()

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the caption decoder, which training needs and `export` keeps."""
        self.decoder = CaptionDecoder(config.model, config.model.audio_encoder.width, rngs=rngs)

    def __call__(self, views: Views) -> LossTerm:
        """Returns the mean cross-entropy in nats per token."""
        batch = views.batch
        hidden = self.decoder(
            batch.text_tokens, batch.text_segments, batch.text_positions, views.audio_tokens, views.token_segments
        )
        targets, real = next_tokens(batch.text_tokens, batch.text_segments)
        logits = self.decoder.logits(hidden)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        losses = jax.nn.logsumexp(logits, axis=-1) - chosen
        count = jnp.maximum(jnp.sum(real), 1)
        correct = jnp.sum(real & (jnp.argmax(logits, axis=-1) == targets)) / count
        return LossTerm(jnp.sum(jnp.where(real, losses, 0.0)) / count, {"caption_token_accuracy": correct})
