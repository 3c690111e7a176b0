"""One layer of a Transformer: self-attention, cross-attention in a decoder, and the gated MLP.

The one Transformer of the audio encoder, the text encoder and the caption decoder.
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
from slap_jax.models.layers import GatedMLP, LayerNorm, Linear, RMSNorm, Rotation, gelu, rotate, unchanged

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
            query, key, value, q_segment_ids=segments, window=self.window, causal=self.causal, backend=self.backend
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
        mixed = attention(
            query, key, value, q_segment_ids=segments, kv_segment_ids=memory_segments, backend=self.backend
        )
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
            q_segment_ids=jnp.zeros((rows * slots, 1), jnp.int32),
            kv_segment_ids=kept,
            backend="dense",
        )
        x = x + self.attention.out(mixed.reshape(rows, slots, width))
        owners = jnp.broadcast_to(jnp.arange(slots) // beams + 1, (rows, slots))
        x = x + self.cross_attention(self.cross_norm(x), owners, memory, memory_segments)
        return x + self.mlp(self.mlp_norm(x)), cache


Apply = Callable[[Array, nnx.State], Array]


class SuperBlock(nnx.Module):
    """The repeated unit of the stack: `locals_per_global` local layers, then a global one."""

    def __init__(self, locals_per_global: int, window: int | None, **block: Any):
        """Creates the layers; `block` is what `Block` takes beside the window."""
        layers = {f"local_{i}": Block(window=window, **block) for i in range(locals_per_global)}
        layers["global"] = Block(window=None, **block)
        self.layers = nnx.Dict(layers)
        self.order = tuple(layers)

    def __call__(
        self,
        x: Float[Array, "R N W"],
        segments: Int[Array, "R N"],
        rotation: Rotation,
        local_rotation: Rotation,
        *memory: Array | None,
    ) -> Float[Array, "R N W"]:
        """Applies the layers in order, local ones with their own rotary tables."""
        for name in self.order:
            x = self.layers[name](x, segments, rotation if name == "global" else local_rotation, *memory)
        return x


REMAT_POLICIES = {
    # The attention kernels of TPU and GPU are no matrix products to XLA: by the name of what they return they are not
    # run again in the backward pass.
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names("attention"),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Transformer(nnx.Module):
    """A stack of super-blocks whose parameters share a leading axis and are scanned over, then a norm.

    Compile time does not grow with depth: the program holds one super-block. ModernBERT has its global layers first,
    and no norm before the very first attention: one global layer by itself, then super-blocks as everywhere.
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
        style: Style = SLAP,
        global_first: bool = False,
        backend: str = "auto",
        remat: str = "none",
        scan_unroll: int = 1,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Creates the stack.

        Args:
            layers: in all, a multiple of `locals_per_global + 1`, with `global_first` one more than that.
            heads: attention heads; each has `width / heads` dimensions.
            width: of the stream.
            mlp_width: hidden width of the gated MLP.
            locals_per_global: local layers before each global one.
            local_window: tokens that a local layer sees on each side.
            causal: whether later tokens are hidden.
            cross: whether each layer also reads a memory.
            style: of the layers.
            global_first: put one more global layer first, without a norm before its attention.
            backend: of attention, see `slap_jax.models.attention`.
            remat: "none" keeps every intermediate value for the backward pass, "dots" the results of the weight
                matrices and of attention kernels, "full" the stream between super-blocks only.
            scan_unroll: super-blocks per scan iteration.
            dtype: of the computation.
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
            "style": style,
            "backend": backend,
            "dtype": dtype,
        }

        @nnx.split_rngs(splits=count)
        @nnx.vmap
        def create(rngs: nnx.Rngs) -> SuperBlock:
            return SuperBlock(locals_per_global, local_window, rngs=rngs, **block)

        self.first = Block(window=None, attention_norm=False, rngs=rngs, **block) if global_first else None
        self.blocks = create(rngs)
        self.norm = style.norm(width, dtype=dtype)
        self.remat = remat
        self.unroll = min(scan_unroll, count)

    @classmethod
    def of_tower(
        cls,
        model_config: ConfigDict,
        tower: ConfigDict,
        *,
        causal: bool = False,
        cross: bool = False,
        rngs: nnx.Rngs,
    ) -> Self:
        """Creates the stack of one tower of `config.model`; a tower without local layers need not name them."""
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
            style=MODERNBERT if modernbert else SLAP,
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
        segments: Int[Array, "R N"],
        rotation: Rotation,
        memory: Float[Array, "R M W"] | None = None,
        memory_segments: Int[Array, "R M"] | None = None,
        *,
        local_rotation: Rotation | None = None,
    ) -> Float[Array, "R N W"]:
        """Returns the normed stream after the last layer.

        Args:
            x: embedded tokens.
            segments: owner of each token, 0 for padding.
            rotation: rotary tables of the tokens.
            memory: what the layers of a decoder read, already of this stack's width.
            memory_segments: owner of each vector of the memory.
            local_rotation: the tables of local layers; None for the same ones.
        """
        local_rotation = rotation if local_rotation is None else local_rotation
        if self.first is not None:
            graphdef, state = nnx.split(self.first)
            context = (segments, rotation, memory, memory_segments)
            x = self._remat(lambda x, state: nnx.merge(graphdef, state)(x, *context), True)(x, state)
        graphdef_of_blocks, states = nnx.split(self.blocks)

        def super_block(x: Array, state: nnx.State) -> Array:
            block = nnx.merge(graphdef_of_blocks, state)
            return block(x, segments, rotation, local_rotation, memory, memory_segments)

        # Inside a scan the compiler cannot merge the recomputation away, so no barriers are needed.
        apply = self._remat(super_block, self.unroll > 1)
        x, _ = jax.lax.scan(lambda x, state: (apply(x, state), None), x, states, unroll=self.unroll)
        return self.norm(x)

    def _remat(self, apply: Apply, barriers: bool) -> Apply:
        """The function, with what `remat` says of it computed again in the backward pass."""
        if self.remat == "none":
            return apply
        return jax.checkpoint(apply, policy=REMAT_POLICIES[self.remat], prevent_cse=barriers)
