"""The text tower: caption tokens to features."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from slap_jax.models.layers import Embedding, LayerNorm, unchanged
from slap_jax.models.rope import rotation_1d
from slap_jax.models.transformer import Transformer


class TextEncoder(nnx.Module):
    """Bidirectional Transformer over packed captions: our own, or ModernBERT, which norms its embeddings too."""

    def __init__(self, model_config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the tower of `config.model.text_encoder` for `config.model.vocab_size` tokens."""
        tower = model_config.text_encoder
        dtype = jnp.dtype(model_config.compute_dtype)
        self.head_dim = tower.width // tower.heads
        self.rope_base = float(tower.rope_base)
        local = tower.get("rope_base_local")
        self.rope_base_local = self.rope_base if local is None else float(local)
        self.embedding = Embedding(model_config.vocab_size, tower.width, tied=False, dtype=dtype, rngs=rngs)
        modernbert = tower.get("kind") == "modernbert"
        self.embedding_norm = LayerNorm(tower.width, dtype=dtype) if modernbert else unchanged
        self.transformer = Transformer.of_tower(model_config, tower, rngs=rngs)

    def __call__(
        self, text_tokens: Int[Array, "R T"], text_segments: Int[Array, "R T"], text_positions: Int[Array, "R T"]
    ) -> Float[Array, "R T D"]:
        """Returns a feature for every token of the packed captions."""
        rotation = rotation_1d(text_positions, self.head_dim, self.rope_base)
        local = rotation
        if self.rope_base_local != self.rope_base:
            local = rotation_1d(text_positions, self.head_dim, self.rope_base_local)
        x = self.embedding_norm(self.embedding(text_tokens))
        return self.transformer(x, text_segments, rotation, local_rotation=local)
