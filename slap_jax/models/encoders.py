"""Attention pooling: every clip of a packed row to one vector.

The audio tower: log-mel patches to dense features.

The text tower: caption tokens to features.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from slap_jax.models.layers import (
    Embedding,
    GatedMLP,
    LayerNorm,
    Linear,
    RMSNorm,
    rotation_1d,
    rotation_2d,
    truncated_normal,
    unchanged,
)
from slap_jax.models.transformer import Transformer


class AttentionPooling(nnx.Module):
    """Multi-head attention pooling (MAP) with one learned probe: `p = MHA(probe, z, z)`, then `p + MLP(norm(p))`.

    Source: paper equation 10; Lee et al. 2019 (Set Transformer); big_vision's MAP head.
    """

    def __init__(self, width: int, heads: int, mlp_width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Creates the probe and its layer; the scores start near zero, so pooling starts as a mean."""
        self.probe = nnx.Param(truncated_normal(rngs.params(), (width,), 1.0 / width))
        self.query = Linear(width, width, dtype=jnp.float32, rngs=rngs)
        self.key = Linear(width, width, dtype=jnp.float32, rngs=rngs)
        self.value = Linear(width, width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, dtype=dtype, rngs=rngs)
        self.norm = RMSNorm(width, dtype=dtype)
        self.mlp = GatedMLP(width, mlp_width, out_scale=2.0**-0.5, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.dtype = jnp.dtype(dtype)

    def _scores(self, tokens: Float[Array, "R L D"]) -> Float[Array, "R L H"]:
        # One query for all tokens: (z K) . q = z (K q), so the keys of the tokens need not be computed.
        width = tokens.shape[-1]
        query = self.query(self.probe[...]).reshape(self.heads, -1)
        key = self.key.kernel[...].reshape(width, self.heads, -1)
        combined = jnp.einsum("whd,hd->wh", key, query) * query.shape[-1] ** -0.5
        return jnp.matmul(tokens.astype(self.dtype), combined.astype(self.dtype), preferred_element_type=jnp.float32)

    def __call__(self, tokens: Float[Array, "R L D"], segments: Int[Array, "R L"], slots: int) -> Float[Array, "R K D"]:
        """Pools the tokens of each slot.

        Args:
            tokens: dense features.
            segments: 1..K, the slot of each token; 0 is padding.
            slots: K.

        Returns:
            One vector per slot; zeros for a slot without tokens.
        """
        rows, length, width = tokens.shape
        member = segments[:, None, :] == jnp.arange(1, slots + 1)[None, :, None]  # [R, K, L]
        scores = self._scores(tokens)
        # Each slot's own maximum keeps its softmax independent of its neighbours; any shift cancels exactly.
        highest = jnp.max(jnp.where(member[..., None], scores[:, None], -jnp.inf), axis=2)
        highest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(highest), highest, 0.0))  # [R, K, H]
        owner = jnp.maximum(segments - 1, 0)
        weights = jnp.exp(scores - jnp.take_along_axis(highest, owner[..., None], axis=1))
        weights = jnp.where((segments > 0)[..., None], weights, 0.0)  # [R, L, H]
        value = self.value(tokens).reshape(rows, length, self.heads, -1)
        weighted = (weights[..., None] * value).reshape(rows, length, width)
        # Sums over each slot's tokens as one matrix product with 0/1 entries: no [R, K, L, D] tensor.
        summed = jnp.matmul(member.astype(weighted.dtype), weighted, precision="highest")
        total = jnp.matmul(member.astype(jnp.float32), weights, precision="highest")
        pooled = summed.reshape(rows, slots, self.heads, -1) / jnp.where(total > 0.0, total, 1.0)[..., None]
        pooled = self.out(pooled.reshape(rows, slots, width))
        return pooled + self.mlp(self.norm(pooled))


def token_segment_ids(audio_segment_ids: Int[Array, "R C"], patches: int) -> Int[Array, "R L"]:
    """Returns the owner of each token: F = `patches` tokens in a column, frequency fastest."""
    return jnp.repeat(audio_segment_ids, patches, axis=1)


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
        audio_segment_ids: Int[Array, "R C"],
        audio_positions: Int[Array, "R C"],
        mask: Bool[Array, "R L"] | None = None,
    ) -> Float[Array, "R L D"]:
        """Returns a feature for every patch.

        Args:
            patches: normalised log-mel patches, see `frontend.patches`.
            audio_segment_ids: owner of each column, 0 for padding.
            audio_positions: index of each column inside its clip.
            mask: True where the learned mask token stands in for the patch; its position is still known.
        """
        x = self.patch_embedding(patches)
        if mask is not None:
            x = jnp.where(mask[..., None], self.mask_token[...].astype(x.dtype), x)
        rotation = rotation_2d(audio_positions, self.patches, self.head_dim, *self.rope_bases)
        return self.transformer(x, token_segment_ids(audio_segment_ids, self.patches), rotation)


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
        self, text_tokens: Int[Array, "R T"], text_segment_ids: Int[Array, "R T"], text_positions: Int[Array, "R T"]
    ) -> Float[Array, "R T D"]:
        """Returns a feature for every token of the packed captions."""
        rotation = rotation_1d(text_positions, self.head_dim, self.rope_base)
        local = rotation
        if self.rope_base_local != self.rope_base:
            local = rotation_1d(text_positions, self.head_dim, self.rope_base_local)
        x = self.embedding_norm(self.embedding(text_tokens))
        return self.transformer(x, text_segment_ids, rotation, local_rotation=local)
