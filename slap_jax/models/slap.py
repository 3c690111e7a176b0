"""The dual encoder, from packed audio and packed captions to one shared space, and the head that classifies clips."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped
from ml_collections import ConfigDict, FrozenConfigDict

from slap_jax.models import frontend
from slap_jax.models.encoders import AttentionPooling, AudioEncoder, TextEncoder, token_segment_ids
from slap_jax.models.layers import Linear, RMSNorm
from slap_jax.parallel.sharding import BATCH_SPEC, constrain, shard_map_if_mesh


class Slap(nnx.Module):
    """An audio tower and a text tower, each with attention pooling and a projection to E dimensions.

        audio_e = l2_normalize(W_a pool_a(audio_encoder(patches)))        for every clip
        text_e  = l2_normalize(W_t pool_t(text_encoder(tokens)))          for every caption

    All variables are parameters, so `nnx.split(model)` returns the graph definition and the parameters.
    """

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the model from `config.audio` and `config.model`."""
        model = config.model
        audio, text = model.audio_encoder, model.text_encoder
        dtype = jnp.dtype(model.compute_dtype)
        self.audio_config = FrozenConfigDict(config.audio)  # hashable, as a graph definition must be
        self.freq_patches = self.audio_config.mels // self.audio_config.mels_per_patch
        self.audio_encoder = AudioEncoder(model, config.audio, rngs=rngs)
        self.audio_pooling = AttentionPooling(audio.width, audio.heads, audio.mlp_width, dtype=dtype, rngs=rngs)
        self.audio_projection = Linear(audio.width, model.embed_dim, dtype=dtype, rngs=rngs)
        self.text_encoder = TextEncoder(model, rngs=rngs)
        self.text_pooling = AttentionPooling(text.width, text.heads, text.mlp_width, dtype=dtype, rngs=rngs)
        self.text_projection = Linear(text.width, model.embed_dim, dtype=dtype, rngs=rngs)

    def audio_mel(
        self, waveform: Shaped[Array, "R S"], audio_segment_ids: Int[Array, "R C"]
    ) -> Float[Array, "R C 16 mels"]:
        """Returns the normalised log-mel spectrogram of packed samples, before SpecAugment and patching."""

        def local(waveform: Array, audio_segment_ids: Array) -> Array:
            mel = frontend.log_mel(waveform, audio_segment_ids, self.audio_config)
            return frontend.normalise(mel, self.audio_config)

        # XLA does not partition an FFT: it would gather the frames of all rows first.
        return shard_map_if_mesh(local, in_specs=(BATCH_SPEC, BATCH_SPEC), out_specs=BATCH_SPEC)(
            waveform, audio_segment_ids
        )

    def audio_patches(
        self, waveform: Shaped[Array, "R S"], audio_segment_ids: Int[Array, "R C"]
    ) -> Float[Array, "R L P"]:
        """Returns the normalised log-mel patches of packed samples, without augmentation."""
        return frontend.patches(self.audio_mel(waveform, audio_segment_ids), self.audio_config)

    def audio_tokens(
        self,
        patches: Float[Array, "R L P"],
        audio_segment_ids: Int[Array, "R C"],
        audio_positions: Int[Array, "R C"],
        mask: Bool[Array, "R L"] | None = None,
    ) -> Float[Array, "R L D"]:
        """Returns the dense audio features; `mask` is True where the mask token replaces a patch."""
        patches = constrain(patches, BATCH_SPEC)
        return constrain(self.audio_encoder(patches, audio_segment_ids, audio_positions, mask), BATCH_SPEC)

    def audio_embeddings(
        self,
        tokens: Float[Array, "R L D"],
        audio_segment_ids: Int[Array, "R C"],
        slots: int,
        normalize: bool = True,
    ) -> Float[Array, "R K E"]:
        """Returns one fp32 vector per slot, of unit length if `normalize`; zeros for an empty slot."""
        segment_ids = token_segment_ids(audio_segment_ids, self.freq_patches)
        projected = self.audio_projection(self.audio_pooling(tokens, segment_ids, slots))
        return l2_normalize(projected) if normalize else projected.astype(jnp.float32)

    def text_tokens(
        self, text_tokens: Int[Array, "R T"], text_segment_ids: Int[Array, "R T"], text_positions: Int[Array, "R T"]
    ) -> Float[Array, "R T D"]:
        """Returns the features of the tokens of packed captions."""
        return constrain(self.text_encoder(text_tokens, text_segment_ids, text_positions), BATCH_SPEC)

    def text_embeddings(
        self,
        tokens: Float[Array, "R T D"],
        text_segment_ids: Int[Array, "R T"],
        slots: int,
        normalize: bool = True,
    ) -> Float[Array, "R K E"]:
        """Returns one fp32 vector per slot, of unit length if `normalize`; zeros for an empty slot."""
        projected = self.text_projection(self.text_pooling(tokens, text_segment_ids, slots))
        return l2_normalize(projected) if normalize else projected.astype(jnp.float32)


def l2_normalize(x: Float[Array, "*batch E"]) -> Float[Array, "*batch E"]:
    """Scales to unit length in fp32; a zero vector stays zero and has a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)


class ClassificationHead(nnx.Module):
    """Logits of Y classes from pooled audio features: `RMSNorm(x) W + b` in fp32.

    W and b start at zero, so that all classes are equally likely.
    """

    def __init__(self, width: int, classes: int, *, rngs: nnx.Rngs):
        self.norm = RMSNorm(width, dtype=jnp.float32)
        zeros = jax.nn.initializers.zeros
        self.output = nnx.Linear(width, classes, kernel_init=zeros, bias_init=zeros, rngs=rngs)

    def __call__(self, pooled: Float[Array, "*batch D"]) -> Float[Array, "*batch Y"]:
        """Returns the logits."""
        return self.output(self.norm(pooled))


def class_probabilities(logits: Float[Array, "*batch Y"], multi_label: bool) -> Float[Array, "*batch Y"]:
    """Returns the softmax over the classes, or with `multi_label` the sigmoid of each logit."""
    return jax.nn.sigmoid(logits) if multi_label else jax.nn.softmax(logits)
