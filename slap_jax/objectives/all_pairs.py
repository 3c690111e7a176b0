"""Reductions over all N x N pairs of audio and captions in the global batch, one tile at a time.

Every device keeps the audio of its own clips. Blocks of captions travel round the ring of devices together with their
partial results, and have met all audio when they are back home. Memory grows with the clips of one device instead of
the global batch, and only one tile of scores exists at a time.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from slap_jax.parallel.sharding import AXES, BATCH_AXES, axis_size, shard_map_if_mesh

# A pytree of arrays whose leading axis is clips: those of the batch, of a device or of a tile.
Clips = Any
Tile = Callable[[Clips, Clips], tuple[Clips, Clips]]
Merge = Callable[[Array, Array], Array]


def reduce_over_pairs(
    tile: Tile, audio: Clips, text: Clips, block: int, merge: Merge = jnp.add, identity: float = 0.0
) -> tuple[Clips, Clips]:
    """Reduces a function of all pairs over the captions of each audio and over the audio of each caption.

    Not differentiable; the losses compute their gradients with a second reduction.

    Args:
        tile: maps a block of audio and a block of captions to two partial results, one per audio and one per caption.
            Clips beyond the last one are zeros.
        audio: what the tile reads of each clip's audio, arrays [N, ...].
        text: what the tile reads of each clip's caption, arrays [N, ...].
        block: maximum number of audio, and of captions, in a tile.
        merge: combines two partial results elementwise; associative and commutative.
        identity: neutral element of `merge`.

    Returns:
        The merged first and second results of the tiles, arrays [N, ...].
    """
    axes = ring_axes(jax.tree.leaves(audio)[0].shape[0])
    spec = PartitionSpec(axes)
    local = functools.partial(_reduce_local, tile, block, merge, identity, axes)
    return shard_map_if_mesh(local, (spec, spec), (spec, spec))(audio, text)


def ring_axes(num_clips: int) -> tuple[str, ...]:
    """Returns the mesh axes over which the clips are split: all of them if they divide N, else those of the batch.

    Devices along `tensor` hold the same rows. Splitting the clips over them too shares the pairs out; otherwise they
    all compute the same pairs.
    """
    return AXES if num_clips % math.prod(map(axis_size, AXES)) == 0 else BATCH_AXES


def _reduce_local(
    tile: Tile, block: int, merge: Merge, identity: float, axes: tuple[str, ...], audio: Clips, text: Clips
) -> tuple[Clips, Clips]:
    """Computes one device's part of the reduction.

    for text_block in blocks of the device's captions:          # text_loop
        for hop in range(num_shards):                           # ring_loop
            for audio_block in blocks of the device's audio:    # audio_loop
                audio_part, text_part = tile(audio_block, text_block)
                audio_acc[audio_block] = merge(audio_acc[audio_block], audio_part)
                text_acc = merge(text_acc, text_part)
            text_block, text_acc = what the neighbour had
    """
    num_clips = jax.tree.leaves(audio)[0].shape[0]
    audio_blocks, text_blocks = _split_into_blocks(audio, block), _split_into_blocks(text, block)
    num_shards = math.prod(map(axis_size, axes))
    neighbours = [(device, (device - 1) % num_shards) for device in range(num_shards)]
    part_shapes = jax.eval_shape(tile, *jax.tree.map(lambda x: x[0], (audio_blocks, text_blocks)))
    audio_init, text_init = jax.tree.map(lambda x: jnp.full(x.shape, identity, x.dtype), part_shapes)
    merge_trees = functools.partial(jax.tree.map, merge)

    def send(tree: Clips) -> Clips:
        return jax.tree.map(lambda x: jax.lax.ppermute(x, axes, neighbours), tree) if num_shards > 1 else tree

    def text_loop(audio_acc: Clips, home_block: Clips) -> tuple[Clips, Clips]:
        def ring_loop(carry: tuple[Clips, Clips, Clips], _: None) -> tuple[tuple[Clips, Clips, Clips], None]:
            text_block, audio_acc, text_acc = carry

            def audio_loop(text_sum: Clips, inputs: tuple[Clips, Clips]) -> tuple[Clips, Clips]:
                audio_block, audio_sum = inputs
                audio_part, text_part = tile(audio_block, text_block)
                return merge_trees(text_sum, text_part), merge_trees(audio_sum, audio_part)

            text_update, audio_acc = jax.lax.scan(audio_loop, text_init, (audio_blocks, audio_acc))
            # `text_acc` travels one hop behind its captions, so that sending them need not wait for the tiles.
            return (send(text_block), audio_acc, merge_trees(send(text_acc), text_update)), None

        carry = (home_block, audio_acc, text_init)
        (_, audio_acc, text_acc), _ = jax.lax.scan(ring_loop, carry, None, length=num_shards)
        return audio_acc, send(text_acc)

    num_blocks = jax.tree.leaves(audio_blocks)[0].shape[0]
    audio_acc = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_blocks, *x.shape)), audio_init)
    audio_acc, text_acc = jax.lax.scan(text_loop, audio_acc, text_blocks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num_clips], (audio_acc, text_acc))


def _split_into_blocks(tree: Clips, block: int) -> Clips:
    """Splits the clips into the fewest blocks of equal size, padded with zeros: [N, ...] to [B, b, ...]."""

    def split(x: Array) -> Array:
        count = -(-x.shape[0] // block)
        size = -(-x.shape[0] // count)
        padding = [(0, count * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(count, size, *x.shape[1:])

    return jax.tree.map(split, tree)
