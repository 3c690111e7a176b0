"""The audio tower, the text tower, and the attention pooling that reduces each clip of a packed row to one vector."""

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
    identity,
    rotation_1d,
    rotation_2d,
    truncated_normal,
)
from slap_jax.models.transformer import Transformer


class AudioEncoder(nnx.Module):
    """A ViT over 16 x 16 log-mel patches, with local and global layers and rotary positions in time and frequency."""

    def __init__(self, model_config: ConfigDict, audio_config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the tower of `config.model.audio_encoder` for the patches of `config.audio`."""
        tower = model_config.audio_encoder
        self.freq_patches = audio_config.mels // audio_config.mels_per_patch
        self.head_dim = tower.width // tower.heads
        self.rope_bases = (float(tower.rope_base_time), float(tower.rope_base_frequency))
        dtype = jnp.dtype(model_config.compute_dtype)
        patch_size = audio_config.frames_per_column * audio_config.mels_per_patch
        self.patch_embedding = Linear(patch_size, tower.width, dtype=dtype, rngs=rngs)
        self.mask_token = nnx.Param(truncated_normal(rngs.params(), (tower.width,), 1.0))
        self.transformer = Transformer.from_config(model_config, tower, rngs=rngs)

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
            audio_segment_ids: segment of each column, 0 for padding.
            audio_positions: index of each column in its clip.
            mask: True where the learned mask token replaces the patch; its position remains known.
        """
        x = self.patch_embedding(patches)
        if mask is not None:
            x = jnp.where(mask[..., None], self.mask_token[...].astype(x.dtype), x)
        rotation = rotation_2d(audio_positions, self.freq_patches, self.head_dim, *self.rope_bases)
        return self.transformer(x, token_segment_ids(audio_segment_ids, self.freq_patches), rotation)


def token_segment_ids(audio_segment_ids: Int[Array, "R C"], freq_patches: int) -> Int[Array, "R L"]:
    """Returns the segment of each audio token, from those of the columns: F tokens per column, frequency fastest."""
    return jnp.repeat(audio_segment_ids, freq_patches, axis=1)


class TextEncoder(nnx.Module):
    """A bidirectional Transformer over packed captions: ours, or ModernBERT, which also norms its embeddings."""

    def __init__(self, model_config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the tower of `config.model.text_encoder` for `config.model.vocab_size` tokens."""
        tower = model_config.text_encoder
        dtype = jnp.dtype(model_config.compute_dtype)
        self.head_dim = tower.width // tower.heads
        self.rope_base = float(tower.rope_base)
        self.rope_base_local = self.rope_base if tower.rope_base_local is None else float(tower.rope_base_local)
        self.embedding = Embedding(model_config.vocab_size, tower.width, tied=False, dtype=dtype, rngs=rngs)
        self.embedding_norm = LayerNorm(tower.width, dtype=dtype) if tower.kind == "modernbert" else identity
        self.transformer = Transformer.from_config(model_config, tower, rngs=rngs)

    def __call__(
        self, text_tokens: Int[Array, "R T"], text_segment_ids: Int[Array, "R T"], text_positions: Int[Array, "R T"]
    ) -> Float[Array, "R T D"]:
        """Returns a feature for every token of the packed captions."""
        rotation = rotation_1d(text_positions, self.head_dim, self.rope_base)
        local_rotation = rotation
        if self.rope_base_local != self.rope_base:
            local_rotation = rotation_1d(text_positions, self.head_dim, self.rope_base_local)
        x = self.embedding_norm(self.embedding(text_tokens))
        return self.transformer(x, text_segment_ids, rotation, local_rotation=local_rotation)


class AttentionPooling(nnx.Module):
    """Multi-head attention pooling (MAP) with one learned probe, for every clip of a packed row.

        a = softmax_i(probe W_q (z_i W_k)^T / sqrt(d))      per head, over the tokens i of the clip
        p = (sum_i a_i z_i W_v) W_out
        y = p + MLP(norm(p))

    Source: paper equation 10; Lee et al. 2019 (Set Transformer); big_vision's MAP head.
    """

    def __init__(self, width: int, heads: int, mlp_width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Creates the layer; the initial scores are near zero, so that pooling starts as a mean."""
        self.probe = nnx.Param(truncated_normal(rngs.params(), (width,), 1.0 / width))
        self.query = Linear(width, width, dtype=jnp.float32, rngs=rngs)
        self.key = Linear(width, width, dtype=jnp.float32, rngs=rngs)
        self.value = Linear(width, width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, dtype=dtype, rngs=rngs)
        self.norm = RMSNorm(width, dtype=dtype)
        self.mlp = GatedMLP(width, mlp_width, out_scale=2.0**-0.5, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.dtype = jnp.dtype(dtype)

    def __call__(
        self, tokens: Float[Array, "R L D"], segment_ids: Int[Array, "R L"], slots: int
    ) -> Float[Array, "R K D"]:
        """Pools the tokens of each slot.

        Args:
            tokens: dense features.
            segment_ids: 1..K for the slot of each token, 0 for padding.
            slots: K.

        Returns:
            One vector per slot; zeros for a slot without tokens.
        """
        rows, length, width = tokens.shape
        member = segment_ids[:, None, :] == jnp.arange(1, slots + 1)[None, :, None]  # [R, K, L]
        scores = self._scores(tokens)
        # Each slot has its own maximum, so that large scores in one clip do not underflow another's.
        m = jnp.max(jnp.where(member[..., None], scores[:, None], -jnp.inf), axis=2)
        m = jax.lax.stop_gradient(jnp.where(jnp.isfinite(m), m, 0.0))  # [R, K, H]
        slot = jnp.maximum(segment_ids - 1, 0)
        p = jnp.exp(scores - jnp.take_along_axis(m, slot[..., None], axis=1))
        p = jnp.where((segment_ids > 0)[..., None], p, 0.0)  # [R, L, H]
        value = self.value(tokens).reshape(rows, length, self.heads, -1)
        weighted = (p[..., None] * value).reshape(rows, length, width)
        # Sums over the tokens of each slot, as a matrix product with 0/1 entries: no [R, K, L, D] tensor exists.
        acc = jnp.matmul(member.astype(weighted.dtype), weighted, precision="highest")
        total = jnp.matmul(member.astype(jnp.float32), p, precision="highest")
        pooled = acc.reshape(rows, slots, self.heads, -1) / jnp.where(total > 0.0, total, 1.0)[..., None]
        pooled = self.out(pooled.reshape(rows, slots, width))
        return pooled + self.mlp(self.norm(pooled))

    def _scores(self, tokens: Float[Array, "R L D"]) -> Float[Array, "R L H"]:
        # There is one query: z (W_k q) needs no keys of the tokens, as (z W_k) q would.
        width = tokens.shape[-1]
        query = self.query(self.probe[...]).reshape(self.heads, -1)
        key = self.key.kernel[...].reshape(width, self.heads, -1)
        combined = jnp.einsum("whd,hd->wh", key, query) * query.shape[-1] ** -0.5
        return jnp.matmul(tokens.astype(self.dtype), combined.astype(self.dtype), preferred_element_type=jnp.float32)
