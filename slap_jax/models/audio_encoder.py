"""The audio tower: log-mel patches to dense features."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from slap_jax.models.layers import Linear, truncated_normal
from slap_jax.models.rope import rotation_2d
from slap_jax.models.transformer import Transformer


def token_segments(audio_segments: Int[Array, "R C"], patches: int) -> Int[Array, "R L"]:
    """Returns the owner of each token: F = `patches` tokens in a column, frequency fastest."""
    return jnp.repeat(audio_segments, patches, axis=1)


class AudioEncoder(nnx.Module):
    """ViT over 16 x 16 log-mel patches, with local and global layers and rotary positions in time and frequency."""

    def __init__(self, model_config: ConfigDict, audio_config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the tower of `config.model.audio_encoder` for the patches of `config.audio`."""
        tower = model_config.audio_encoder
        self.patches = audio_config.mels // audio_config.mels_per_patch
        self.head_dim = tower.width // tower.heads
        self.rope_bases = (float(tower.rope_base_time), float(tower.rope_base_frequency))
        dtype = jnp.dtype(model_config.compute_dtype)
        values = audio_config.frames_per_column * audio_config.mels_per_patch
        self.patch_embedding = Linear(values, tower.width, dtype=dtype, rngs=rngs)
        self.mask_token = nnx.Param(truncated_normal(rngs.params(), (tower.width,), 1.0))
        self.transformer = Transformer.of_tower(model_config, tower, rngs=rngs)

    def __call__(
        self,
        patches: Float[Array, "R L P"],
        audio_segments: Int[Array, "R C"],
        audio_columns: Int[Array, "R C"],
        mask: Bool[Array, "R L"] | None = None,
    ) -> Float[Array, "R L D"]:
        """Returns a feature for every patch.

        Args:
            patches: normalised log-mel patches, see `frontend.patches`.
            audio_segments: owner of each column, 0 for padding.
            audio_columns: index of each column inside its clip.
            mask: True where the learned mask token stands in for the patch; its position is still known.
        """
        x = self.patch_embedding(patches)
        if mask is not None:
            x = jnp.where(mask[..., None], self.mask_token[...].astype(x.dtype), x)
        rotation = rotation_2d(audio_columns, self.patches, self.head_dim, *self.rope_bases)
        return self.transformer(x, token_segments(audio_segments, self.patches), rotation)
