"""Contrastive learning of clips and captions over the global batch: softmax (CLIP) or sigmoid (SigLIP)."""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from slap_jax.objectives.negatives import clip_keys
from slap_jax.objectives.sigmoid_loss import sigmoid_loss
from slap_jax.objectives.softmax_loss import softmax_loss
from slap_jax.objectives.views import LossTerm, Views
from slap_jax.objectives.whole_batch import WholeBatch
from slap_jax.parallel.per_device import ROWS, constrain


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

    def features(self, views: Views) -> dict[str, Array]:
        """Returns the unit vectors of the clips' audio and captions, fp32 [R, K, E]."""
        return {"audio": views.audio_embeddings, "text": views.text_embeddings}

    def loss(self, features: dict[str, Array], whole: WholeBatch) -> LossTerm:
        """Returns the loss over the valid clips of the global batch, weighted by their sources."""
        # The losses split the clips over `tensor` too; their gradients return to the towers by rows again.
        audio, text = (constrain(features[name].astype(jnp.float32), ROWS) for name in ("audio", "text"))
        audio, text = (x.reshape(-1, x.shape[-1]) for x in (audio, text))
        batch, weights = whole.batch, whole.clip_weights("contrastive")
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
