"""The text tower, trained from scratch: caption tokens to features."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from slap_jax.models.layers import Embedding
from slap_jax.models.rope import rotation_1d
from slap_jax.models.transformer import Transformer


class TextEncoder(nnx.Module):
    """Bidirectional Transformer over packed captions."""

    def __init__(self, model_config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the tower of `config.model.text_encoder` for `config.model.vocab_size` tokens."""
        tower = model_config.text_encoder
        dtype = jnp.dtype(model_config.compute_dtype)
        self.head_dim = tower.width // tower.heads
        self.rope_base = float(tower.rope_base)
        self.embedding = Embedding(model_config.vocab_size, tower.width, tied=False, dtype=dtype, rngs=rngs)
        self.transformer = Transformer.of_tower(model_config, tower, rngs=rngs)

    def __call__(
        self, text_tokens: Int[Array, "R T"], text_segments: Int[Array, "R T"], text_positions: Int[Array, "R T"]
    ) -> Float[Array, "R T D"]:
        """Returns a feature for every token of the packed captions."""
        rotation = rotation_1d(text_positions, self.head_dim, self.rope_base)
        return self.transformer(self.embedding(text_tokens), text_segments, rotation)
