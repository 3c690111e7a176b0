"""Attention pooling: every clip of a packed row to one vector."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from slap_jax.models.layers import GatedMLP, Linear, RMSNorm, truncated_normal


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
