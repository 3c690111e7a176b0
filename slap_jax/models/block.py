"""One layer of a Transformer: self-attention, cross-attention in a decoder, and the gated MLP."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from slap_jax.models.attention import attention
from slap_jax.models.layers import GatedMLP, LayerNorm, Linear, RMSNorm, gelu, unchanged
from slap_jax.models.rope import Rotation, rotate

KeysValues = tuple[Float[Array, "R N H d"], Float[Array, "R N H d"]]


@dataclasses.dataclass(frozen=True)
class Style:
    """What the layers of a tower are made of.

    Attributes:
        norm: of the stream, before attention, before the MLP and after the last layer.
        activation: of the MLP's gate.
    """

    norm: type[RMSNorm] | type[LayerNorm]
    activation: Callable[[Array], Array]


SLAP = Style(RMSNorm, jax.nn.silu)
# Source: Warner et al., "Smarter, Better, Faster, Longer" (arXiv 2412.13663), and transformers' ModernBertModel.
MODERNBERT = Style(LayerNorm, gelu)


class SelfAttention(nnx.Module):
    """Multi-head attention between the tokens of a clip, with rotary positions."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        window: int | None,
        causal: bool,
        out_scale: float,
        backend: str,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Creates the four projections; `window` None is global attention."""
        self.query = Linear(width, width, dtype=dtype, rngs=rngs)
        self.key = Linear(width, width, dtype=dtype, rngs=rngs)
        self.value = Linear(width, width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, scale=out_scale, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.window = window
        self.causal = causal
        # "blocked" computes local layers only: with it forced, global layers choose for themselves.
        self.backend = "auto" if backend == "blocked" and window is None else backend

    def _heads(self, x: Float[Array, "R N W"]) -> Float[Array, "R N H d"]:
        return x.reshape(*x.shape[:-1], self.heads, -1)

    def project(self, x: Float[Array, "R N W"], rotation: Rotation) -> tuple[Array, Array, Array]:
        """Returns queries, keys and values [R, N, H, d], the first two rotated."""
        query, key, value = (self._heads(linear(x)) for linear in (self.query, self.key, self.value))
        return rotate(query, rotation), rotate(key, rotation), value

    def __call__(
        self, x: Float[Array, "R N W"], segments: Int[Array, "R N"], rotation: Rotation
    ) -> Float[Array, "R N W"]:
        """Mixes the tokens of each segment."""
        query, key, value = self.project(x, rotation)
        mixed = attention(
            query, key, value, q_segments=segments, window=self.window, causal=self.causal, backend=self.backend
        )
        return self.out(mixed.reshape(x.shape))


class CrossAttention(nnx.Module):
    """Multi-head attention from the tokens of a caption to the audio tokens of the same clip."""

    def __init__(self, width: int, heads: int, *, out_scale: float, backend: str, dtype: DTypeLike, rngs: nnx.Rngs):
        """Creates the four projections."""
        self.query = Linear(width, width, dtype=dtype, rngs=rngs)
        self.key = Linear(width, width, dtype=dtype, rngs=rngs)
        self.value = Linear(width, width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, scale=out_scale, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.backend = "auto" if backend == "blocked" else backend

    def keys_values(self, memory: Float[Array, "R N W"]) -> KeysValues:
        """Projects the memory; in decoding this is done once."""
        shape = (*memory.shape[:-1], self.heads, -1)
        return self.key(memory).reshape(shape), self.value(memory).reshape(shape)

    def __call__(
        self,
        x: Float[Array, "R T W"],
        segments: Int[Array, "R T"],
        keys_values: KeysValues,
        memory_segments: Int[Array, "R N"],
    ) -> Float[Array, "R T W"]:
        """Reads the memory of each token's own segment; zeros where it has none."""
        query = self.query(x).reshape(*x.shape[:-1], self.heads, -1)
        key, value = keys_values
        mixed = attention(query, key, value, q_segments=segments, kv_segments=memory_segments, backend=self.backend)
        return self.out(mixed.reshape(x.shape))


class Block(nnx.Module):
    """One pre-norm layer: self-attention, cross-attention in a decoder, gated MLP, each added to the stream."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        *,
        window: int | None,
        causal: bool,
        cross: bool,
        out_scale: float,
        backend: str,
        style: Style = SLAP,
        attention_norm: bool = True,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Creates the layer; `attention_norm` False leaves out the norm before its self-attention."""
        shared: dict[str, Any] = {"out_scale": out_scale, "dtype": dtype, "rngs": rngs}
        self.attention_norm = style.norm(width, dtype=dtype) if attention_norm else unchanged
        self.attention = SelfAttention(width, heads, window=window, causal=causal, backend=backend, **shared)
        if cross:
            self.cross_norm = style.norm(width, dtype=dtype)
            self.cross_attention = CrossAttention(width, heads, backend=backend, **shared)
        self.mlp_norm = style.norm(width, dtype=dtype)
        self.mlp = GatedMLP(width, mlp_width, activation=style.activation, **shared)
        self.cross = cross

    def __call__(
        self,
        x: Float[Array, "R N W"],
        segments: Int[Array, "R N"],
        rotation: Rotation,
        memory: Float[Array, "R M W"] | None,
        memory_segments: Int[Array, "R M"] | None,
    ) -> Float[Array, "R N W"]:
        """Returns the stream after this layer."""
        x = x + self.attention(self.attention_norm(x), segments, rotation)
        if self.cross:
            assert memory is not None and memory_segments is not None
            keys_values = self.cross_attention.keys_values(memory)
            x = x + self.cross_attention(self.cross_norm(x), segments, keys_values, memory_segments)
        return x + self.mlp(self.mlp_norm(x))

    def decode(
        self,
        x: Float[Array, "R K W"],
        rotation: Rotation,
        cache: tuple[Array, Array],
        position: Int[Array, ""],
        memory: KeysValues,
        memory_segments: Int[Array, "R M"],
        beams: int = 1,
    ) -> tuple[Float[Array, "R K W"], tuple[Array, Array]]:
        """Advances one token of every slot.

        Args:
            x: the stream of the newest token of each slot.
            rotation: of this position.
            cache: keys and values [R, K, max_tokens, H, d] of the tokens so far.
            position: index of the newest token.
            memory: this layer's keys and values of the audio tokens.
            memory_segments: owner of each audio token.
            beams: how many slots in a row read the same segment.

        Returns:
            The stream after this layer, and the cache with the new token in it.
        """
        rows, slots, width = x.shape
        query, key, value = self.attention.project(self.attention_norm(x), rotation)
        cache = (
            jax.lax.dynamic_update_index_in_dim(cache[0], key, position, axis=2),
            jax.lax.dynamic_update_index_in_dim(cache[1], value, position, axis=2),
        )
        # Each slot is a row of one query here; keys after the newest token are empty yet and belong to no segment.
        length, heads, dim = cache[0].shape[2:]
        kept = jnp.broadcast_to((jnp.arange(length) > position).astype(jnp.int32), (rows * slots, length))
        mixed = attention(
            query.reshape(rows * slots, 1, heads, dim),
            *(part.reshape(rows * slots, length, heads, dim) for part in cache),
            q_segments=jnp.zeros((rows * slots, 1), jnp.int32),
            kv_segments=kept,
            backend="dense",
        )
        x = x + self.attention.out(mixed.reshape(rows, slots, width))
        owners = jnp.broadcast_to(jnp.arange(slots) // beams + 1, (rows, slots))
        x = x + self.cross_attention(self.cross_norm(x), owners, memory, memory_segments)
        return x + self.mlp(self.mlp_norm(x)), cache
