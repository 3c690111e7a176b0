"""The Transformer of the audio encoder, the text encoder and the caption decoder: pre-norm layers, scanned over depth.

x = x + SelfAttention(norm(x))
x = x + CrossAttention(norm(x), memory)      in a decoder
x = x + MLP(norm(x))
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from slap_jax.models.attention import attention
from slap_jax.models.layers import GatedMLP, LayerNorm, Linear, RMSNorm, Rotation, gelu, identity, rotate

KeysValues = tuple[Float[Array, "R N H d"], Float[Array, "R N H d"]]


@dataclasses.dataclass(frozen=True)
class LayerType:
    """The building blocks of a tower's layers.

    Attributes:
        norm: norm before attention, before the MLP and after the last layer.
        activation: activation of the MLP's gate.
    """

    norm: type[RMSNorm] | type[LayerNorm]
    activation: Callable[[Array], Array]


SLAP = LayerType(RMSNorm, jax.nn.silu)

# Source: Warner et al., "Smarter, Better, Faster, Longer" (arXiv 2412.13663), and transformers' ModernBertModel.
MODERNBERT = LayerType(LayerNorm, gelu)


class SelfAttention(nnx.Module):
    """Multi-head attention between the tokens of a segment, with rotary positions."""

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
        """Creates the four projections; a `window` of None means global attention."""
        self.query = Linear(width, width, dtype=dtype, rngs=rngs)
        self.key = Linear(width, width, dtype=dtype, rngs=rngs)
        self.value = Linear(width, width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, scale=out_scale, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.window = window
        self.causal = causal
        # "blocked" computes local layers only; if it is forced, global layers use "auto".
        self.backend = "auto" if backend == "blocked" and window is None else backend

    def _heads(self, x: Float[Array, "R N W"]) -> Float[Array, "R N H d"]:
        return x.reshape(*x.shape[:-1], self.heads, -1)

    def project(self, x: Float[Array, "R N W"], rotation: Rotation) -> tuple[Array, Array, Array]:
        """Returns queries, keys and values [R, N, H, d]; queries and keys are rotated."""
        query, key, value = (self._heads(linear(x)) for linear in (self.query, self.key, self.value))
        return rotate(query, rotation), rotate(key, rotation), value

    def __call__(
        self, x: Float[Array, "R N W"], segment_ids: Int[Array, "R N"], rotation: Rotation
    ) -> Float[Array, "R N W"]:
        """Returns the update of the residual stream."""
        query, key, value = self.project(x, rotation)
        out = attention(
            query, key, value, q_segment_ids=segment_ids, window=self.window, causal=self.causal, backend=self.backend
        )
        return self.out(out.reshape(x.shape))


class CrossAttention(nnx.Module):
    """Multi-head attention from the tokens of a caption to the audio tokens of the same segment."""

    def __init__(self, width: int, heads: int, *, out_scale: float, backend: str, dtype: DTypeLike, rngs: nnx.Rngs):
        self.query = Linear(width, width, dtype=dtype, rngs=rngs)
        self.key = Linear(width, width, dtype=dtype, rngs=rngs)
        self.value = Linear(width, width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, scale=out_scale, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.backend = "auto" if backend == "blocked" else backend

    def keys_values(self, memory: Float[Array, "R N W"]) -> KeysValues:
        """Projects the memory to keys and values; decoding does this once."""
        shape = (*memory.shape[:-1], self.heads, -1)
        return self.key(memory).reshape(shape), self.value(memory).reshape(shape)

    def __call__(
        self,
        x: Float[Array, "R T W"],
        segment_ids: Int[Array, "R T"],
        keys_values: KeysValues,
        memory_segment_ids: Int[Array, "R N"],
    ) -> Float[Array, "R T W"]:
        """Returns the update of the residual stream; zeros for tokens whose segment has no memory."""
        query = self.query(x).reshape(*x.shape[:-1], self.heads, -1)
        key, value = keys_values
        out = attention(
            query, key, value, q_segment_ids=segment_ids, kv_segment_ids=memory_segment_ids, backend=self.backend
        )
        return self.out(out.reshape(x.shape))


class Block(nnx.Module):
    """One pre-norm layer: self-attention, in a decoder cross-attention, and a gated MLP, each added to the stream."""

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
        layer_type: LayerType = SLAP,
        attention_norm: bool = True,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Creates the layer; without `attention_norm` there is no norm before self-attention."""
        shared: dict[str, Any] = {"out_scale": out_scale, "dtype": dtype, "rngs": rngs}
        self.attention_norm = layer_type.norm(width, dtype=dtype) if attention_norm else identity
        self.attention = SelfAttention(width, heads, window=window, causal=causal, backend=backend, **shared)
        if cross:
            self.cross_norm = layer_type.norm(width, dtype=dtype)
            self.cross_attention = CrossAttention(width, heads, backend=backend, **shared)
        self.mlp_norm = layer_type.norm(width, dtype=dtype)
        self.mlp = GatedMLP(width, mlp_width, activation=layer_type.activation, **shared)
        self.cross = cross

    def __call__(
        self,
        x: Float[Array, "R N W"],
        segment_ids: Int[Array, "R N"],
        rotation: Rotation,
        memory: Float[Array, "R M W"] | None,
        memory_segment_ids: Int[Array, "R M"] | None,
    ) -> Float[Array, "R N W"]:
        x = x + self.attention(self.attention_norm(x), segment_ids, rotation)
        if self.cross:
            assert memory is not None and memory_segment_ids is not None
            keys_values = self.cross_attention.keys_values(memory)
            x = x + self.cross_attention(self.cross_norm(x), segment_ids, keys_values, memory_segment_ids)
        return x + self.mlp(self.mlp_norm(x))

    def decode(
        self,
        x: Float[Array, "R K W"],
        rotation: Rotation,
        cache: tuple[Array, Array],
        position: Int[Array, ""],
        memory: KeysValues,
        memory_segment_ids: Int[Array, "R M"],
        beams: int = 1,
    ) -> tuple[Float[Array, "R K W"], tuple[Array, Array]]:
        """Decodes one token of every slot.

        Args:
            x: the stream of the newest token of each slot.
            rotation: rotary tables of its position.
            cache: keys and values [R, K, max_tokens, H, d] of the tokens so far.
            position: index of the newest token.
            memory: this layer's keys and values of the audio tokens.
            memory_segment_ids: segment of each audio token.
            beams: number of consecutive slots that read the same segment.

        Returns:
            The stream after this layer, and the cache including the new token.
        """
        rows, slots, width = x.shape
        query, key, value = self.attention.project(self.attention_norm(x), rotation)
        cache = (
            jax.lax.dynamic_update_index_in_dim(cache[0], key, position, axis=2),
            jax.lax.dynamic_update_index_in_dim(cache[1], value, position, axis=2),
        )
        # Every slot becomes a row with one query in segment 0; positions after the newest token are in segment 1.
        length, heads, dim = cache[0].shape[2:]
        cached_ids = jnp.broadcast_to((jnp.arange(length) > position).astype(jnp.int32), (rows * slots, length))
        out = attention(
            query.reshape(rows * slots, 1, heads, dim),
            *(part.reshape(rows * slots, length, heads, dim) for part in cache),
            q_segment_ids=jnp.zeros((rows * slots, 1), jnp.int32),
            kv_segment_ids=cached_ids,
            backend="dense",
        )
        x = x + self.attention.out(out.reshape(rows, slots, width))
        segment_ids = jnp.broadcast_to(jnp.arange(slots) // beams + 1, (rows, slots))
        x = x + self.cross_attention(self.cross_norm(x), segment_ids, memory, memory_segment_ids)
        return x + self.mlp(self.mlp_norm(x)), cache


class SuperBlock(nnx.Module):
    """The unit that the stack repeats: `locals_per_global` local layers, then a global one."""

    def __init__(self, locals_per_global: int, window: int | None, **block: Any):
        """Creates the layers; `block` holds the other arguments of `Block`."""
        layers = {f"local_{i}": Block(window=window, **block) for i in range(locals_per_global)}
        layers["global"] = Block(window=None, **block)
        self.layers = nnx.Dict(layers)
        self.order = tuple(layers)

    def __call__(
        self,
        x: Float[Array, "R N W"],
        segment_ids: Int[Array, "R N"],
        rotation: Rotation,
        local_rotation: Rotation,
        *memory: Array | None,
    ) -> Float[Array, "R N W"]:
        """Applies the layers in order; local layers have their own rotary tables."""
        for name in self.order:
            x = self.layers[name](x, segment_ids, rotation if name == "global" else local_rotation, *memory)
        return x


REMAT_POLICIES = {
    # XLA does not see matrix products in the attention kernels of TPU and GPU; their results are saved by name.
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names("attention"),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Transformer(nnx.Module):
    """A scan over super-blocks, whose parameters are stacked along a leading axis, and a norm.

    The program holds one super-block, so compile time does not grow with depth. ModernBERT starts with a global layer
    without a norm before attention: with `global_first` that layer precedes the super-blocks.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        width: int,
        mlp_width: int,
        locals_per_global: int = 0,
        local_window: int | None = None,
        causal: bool = False,
        cross: bool = False,
        layer_type: LayerType = SLAP,
        global_first: bool = False,
        backend: str = "auto",
        remat: str = "none",
        scan_unroll: int = 1,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Creates the stack.

        Args:
            layers: total number, a multiple of `locals_per_global + 1`, plus one with `global_first`.
            heads: number of attention heads, of `width / heads` dimensions each.
            width: width of the residual stream.
            mlp_width: hidden width of the gated MLP.
            locals_per_global: number of local layers before each global one.
            local_window: tokens that a local layer sees on each side.
            causal: whether later tokens are hidden.
            cross: whether each layer also attends to a memory.
            layer_type: norm and activation of the layers.
            global_first: whether another global layer, without a norm before its attention, precedes the others.
            backend: attention backend, see `slap_jax.models.attention`.
            remat: which residuals the backward pass finds in memory: with "none" all activations, with "dots" the
                results of weight matrices and attention kernels, with "full" the stream between super-blocks only.
            scan_unroll: super-blocks per scan iteration.
            dtype: dtype of the computation.
            rngs: source of the initial values.
        """
        count = (layers - global_first) // (locals_per_global + 1)
        branches = layers * (3 if cross else 2)
        block: dict[str, Any] = {
            "width": width,
            "heads": heads,
            "mlp_width": mlp_width,
            "causal": causal,
            "cross": cross,
            "out_scale": branches**-0.5,
            "layer_type": layer_type,
            "backend": backend,
            "dtype": dtype,
        }

        @nnx.split_rngs(splits=count)
        @nnx.vmap
        def create(rngs: nnx.Rngs) -> SuperBlock:
            return SuperBlock(locals_per_global, local_window, rngs=rngs, **block)

        self.first = Block(window=None, attention_norm=False, rngs=rngs, **block) if global_first else None
        self.blocks = create(rngs)
        self.norm = layer_type.norm(width, dtype=dtype)
        self.remat = remat
        self.unroll = min(scan_unroll, count)

    @classmethod
    def from_config(
        cls,
        model_config: ConfigDict,
        tower: ConfigDict,
        *,
        causal: bool = False,
        cross: bool = False,
        rngs: nnx.Rngs,
    ) -> Self:
        """Creates the stack of one tower of `config.model`; `kind` and the settings of local layers are optional."""
        modernbert = tower.get("kind") == "modernbert"
        return cls(
            layers=tower.layers,
            heads=tower.heads,
            width=tower.width,
            mlp_width=tower.mlp_width,
            locals_per_global=tower.get("locals_per_global", 0),
            local_window=tower.get("local_window"),
            causal=causal,
            cross=cross,
            layer_type=MODERNBERT if modernbert else SLAP,
            global_first=modernbert,
            backend=model_config.attention,
            remat=model_config.remat,
            scan_unroll=model_config.scan_unroll,
            dtype=jnp.dtype(model_config.compute_dtype),
            rngs=rngs,
        )

    def __call__(
        self,
        x: Float[Array, "R N W"],
        segment_ids: Int[Array, "R N"],
        rotation: Rotation,
        memory: Float[Array, "R M W"] | None = None,
        memory_segment_ids: Int[Array, "R M"] | None = None,
        *,
        local_rotation: Rotation | None = None,
    ) -> Float[Array, "R N W"]:
        """Returns the stream after the last layer and the final norm.

        Args:
            x: embedded tokens.
            segment_ids: segment of each token, 0 for padding.
            rotation: rotary tables of the tokens.
            memory: vectors that a decoder attends to, of the width of this stack.
            memory_segment_ids: segment of each vector of the memory.
            local_rotation: rotary tables of local layers; None for the same ones.
        """
        local_rotation = rotation if local_rotation is None else local_rotation
        if self.first is not None:
            graphdef, state = nnx.split(self.first)
            arguments = (segment_ids, rotation, memory, memory_segment_ids)
            x = self._remat(lambda x, state: nnx.merge(graphdef, state)(x, *arguments), prevent_cse=True)(x, state)
        block_graphdef, block_states = nnx.split(self.blocks)

        def super_block(x: Array, state: nnx.State) -> Array:
            block = nnx.merge(block_graphdef, state)
            return block(x, segment_ids, rotation, local_rotation, memory, memory_segment_ids)

        # XLA cannot merge the recomputation away across the iterations of a scan; barriers are needed only within one.
        apply = self._remat(super_block, prevent_cse=self.unroll > 1)
        x, _ = jax.lax.scan(lambda x, state: (apply(x, state), None), x, block_states, unroll=self.unroll)
        return self.norm(x)

    def _remat(self, function: Callable[..., Array], *, prevent_cse: bool) -> Callable[..., Array]:
        """Wraps a function so that the backward pass recomputes what `self.remat` does not save."""
        if self.remat == "none":
            return function
        return jax.checkpoint(function, policy=REMAT_POLICIES[self.remat], prevent_cse=prevent_cse)
