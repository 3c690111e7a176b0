"""The dual encoder: packed audio and packed captions to one shared space.

From a clip's pooled audio features to a score for each class.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped
from ml_collections import ConfigDict, FrozenConfigDict

from slap_jax.models import frontend
from slap_jax.models.encoders import AttentionPooling, AudioEncoder, TextEncoder, token_segment_ids
from slap_jax.models.layers import Linear, RMSNorm
from slap_jax.parallel.sharding import BATCH_SPEC, constrain, shard_map_if_mesh


def unit(x: Float[Array, "*batch E"]) -> Float[Array, "*batch E"]:
    """Scales to unit length in fp32; a zero vector stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)


class Slap(nnx.Module):
    """Audio tower and text tower, each with attention pooling and a projection to E dimensions.

    Its only variables are parameters, so `nnx.split(model)` gives the graph definition and the parameters.
    """

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the model of a whole config (`config.audio` and `config.model` are read)."""
        model = config.model
        audio, text = model.audio_encoder, model.text_encoder
        dtype = jnp.dtype(model.compute_dtype)
        self.audio_config = FrozenConfigDict(config.audio)  # hashable, as a graph definition must be
        self.patches = self.audio_config.mels // self.audio_config.mels_per_patch
        self.audio_encoder = AudioEncoder(model, config.audio, rngs=rngs)
        self.audio_pooling = AttentionPooling(audio.width, audio.heads, audio.mlp_width, dtype=dtype, rngs=rngs)
        self.audio_projection = Linear(audio.width, model.embed_dim, dtype=dtype, rngs=rngs)
        self.text_encoder = TextEncoder(model, rngs=rngs)
        self.text_pooling = AttentionPooling(text.width, text.heads, text.mlp_width, dtype=dtype, rngs=rngs)
        self.text_projection = Linear(text.width, model.embed_dim, dtype=dtype, rngs=rngs)

    def audio_mel(
        self, waveform: Shaped[Array, "R S"], audio_segment_ids: Int[Array, "R C"]
    ) -> Float[Array, "R C 16 mels"]:
        """Returns the normalised log-mel of packed samples: what SpecAugment works on."""

        def of_rows(waveform: Array, audio_segment_ids: Array) -> Array:
            return frontend.normalise(
                frontend.log_mel(waveform, audio_segment_ids, self.audio_config), self.audio_config
            )

        # The compiler does not split an FFT over devices: it would gather every row's frames first.
        return shard_map_if_mesh(of_rows, in_specs=(BATCH_SPEC, BATCH_SPEC), out_specs=BATCH_SPEC)(
            waveform, audio_segment_ids
        )

    def audio_patches(
        self, waveform: Shaped[Array, "R S"], audio_segment_ids: Int[Array, "R C"]
    ) -> Float[Array, "R L P"]:
        """Returns the normalised log-mel patches of packed samples, not augmented."""
        return frontend.patches(self.audio_mel(waveform, audio_segment_ids), self.audio_config)

    def audio_tokens(
        self,
        patches: Float[Array, "R L P"],
        audio_segment_ids: Int[Array, "R C"],
        audio_positions: Int[Array, "R C"],
        mask: Bool[Array, "R L"] | None = None,
    ) -> Float[Array, "R L D"]:
        """Returns the dense audio features; `mask` is True where a patch is hidden behind the mask token."""
        return constrain(
            self.audio_encoder(constrain(patches, BATCH_SPEC), audio_segment_ids, audio_positions, mask), BATCH_SPEC
        )

    def audio_embeddings(
        self, tokens: Float[Array, "R L D"], audio_segment_ids: Int[Array, "R C"], slots: int
    ) -> Float[Array, "R K E"]:
        """Returns fp32 unit vectors, one for each slot; zeros for an empty slot."""
        segments = token_segment_ids(audio_segment_ids, self.patches)
        return unit(self.audio_projection(self.audio_pooling(tokens, segments, slots)))

    def text_tokens(
        self, text_tokens: Int[Array, "R T"], text_segment_ids: Int[Array, "R T"], text_positions: Int[Array, "R T"]
    ) -> Float[Array, "R T D"]:
        """Returns the features of the packed captions' tokens."""
        return constrain(self.text_encoder(text_tokens, text_segment_ids, text_positions), BATCH_SPEC)

    def text_embeddings(
        self, tokens: Float[Array, "R T D"], text_segment_ids: Int[Array, "R T"], slots: int
    ) -> Float[Array, "R K E"]:
        """Returns fp32 unit vectors, one for each slot; zeros for an empty slot."""
        return unit(self.text_projection(self.text_pooling(tokens, text_segment_ids, slots)))


class ClassificationHead(nnx.Module):
    """A norm and an affine map in fp32, which starts at zero: every class is as likely as the others."""

    def __init__(self, width: int, classes: int, *, rngs: nnx.Rngs):
        """Creates the head from D = `width` to Y = `classes`."""
        self.norm = RMSNorm(width, dtype=jnp.float32)
        zeros = jax.nn.initializers.zeros
        self.output = nnx.Linear(width, classes, kernel_init=zeros, bias_init=zeros, rngs=rngs)

    def __call__(self, pooled: Float[Array, "*batch D"]) -> Float[Array, "*batch Y"]:
        """Returns the logits."""
        return self.output(self.norm(pooled))


def class_probabilities(logits: Float[Array, "*batch Y"], multi_label: bool) -> Float[Array, "*batch Y"]:
    """Softmax over the classes, or with `multi_label` the sigmoid of each."""
    return jax.nn.sigmoid(logits) if multi_label else jax.nn.softmax(logits)
