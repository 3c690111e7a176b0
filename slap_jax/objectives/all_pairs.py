"""Every clip's audio against every caption of the global batch: tile by tile, with the captions going round a ring.

A device keeps the audio of its own clips. Its captions go from neighbour to neighbour, a block at a time, and with them
what has been summed up for each; after one round they are home again, and have met the audio of every device. Memory
thus grows with the clips of the device and not with those of the batch, and the scores of one tile are all there are.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from slap_jax.parallel.sharding import axis_size, shard_map_if_mesh

# A pytree of arrays whose leading axis is that of the clips: all of them, a device's, or a tile's.
Clips = Any
Tile = Callable[[Clips, Clips], tuple[Clips, Clips]]
Merge = Callable[[Array, Array], Array]


def over_all_pairs(
    tile: Tile, audio: Clips, text: Clips, block: int, merge: Merge = jnp.add, nothing: float = 0.0
) -> tuple[Clips, Clips]:
    """Reduces a function of all N x N pairs over the captions of each audio, and over the audio of each caption.

    It is not differentiated: the losses compute their gradients with a second round.

    Args:
        tile: of some clips' audio and some captions; returns what each audio has of those captions, and each caption
            of that audio. What it gets beyond the last clip is zeros.
        audio: what is known of each clip's audio, arrays [N, ...].
        text: what is known of each clip's caption, arrays [N, ...].
        block: at most so many audio, and so many captions, are in a tile.
        merge: of two parts of a result, elementwise; associative and commutative.
        nothing: the part that changes nothing.

    Returns:
        What the tiles' first results, and what their second ones, merge to: arrays [N, ...].
    """
    axes = ring_axes(jax.tree.leaves(audio)[0].shape[0])
    spec = PartitionSpec(axes)
    rounds = functools.partial(_rounds, tile, block, merge, nothing, axes)
    return shard_map_if_mesh(rounds, (spec, spec), (spec, spec))(audio, text)


def ring_axes(clips: int) -> tuple[str, ...]:
    """The mesh axes over which N clips are split: `tensor` too if it divides them, though its ways have the same rows.

    Each way then takes a share of the pairs; else all of them do the same work.
    """
    axes = ("data", "fsdp", "tensor")
    return axes if clips % math.prod(map(axis_size, axes)) == 0 else axes[:2]


def _rounds(
    tile: Tile, block: int, merge: Merge, nothing: float, axes: tuple[str, ...], audio: Clips, text: Clips
) -> tuple[Clips, Clips]:
    """What one device does, with the audio and the captions of its own clips."""
    clips = jax.tree.leaves(audio)[0].shape[0]
    audio, text = _blocks(audio, block), _blocks(text, block)
    shapes = jax.eval_shape(tile, *jax.tree.map(lambda x: x[0], (audio, text)))
    empty_audio, empty_text = jax.tree.map(lambda x: jnp.full(x.shape, nothing, x.dtype), shapes)
    blocks = jax.tree.leaves(audio)[0].shape[0]
    merged = functools.partial(jax.tree.map, merge)
    ways = math.prod(map(axis_size, axes))

    def send(tree: Clips) -> Clips:
        if ways == 1:
            return tree
        neighbours = [(device, (device - 1) % ways) for device in range(ways)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, axes, neighbours), tree)

    def one_round(of_audio: Clips, text: Clips) -> tuple[Clips, Clips]:
        (_, of_audio, of_text), _ = jax.lax.scan(one_hop, (text, of_audio, empty_text), None, length=ways)
        return of_audio, send(of_text)

    def one_hop(carry: tuple[Clips, Clips, Clips], _: None) -> tuple[tuple[Clips, Clips, Clips], None]:
        text, of_audio, of_text = carry
        to_text, of_audio = jax.lax.scan(functools.partial(one_tile, text), empty_text, (audio, of_audio))
        # What was summed up for these captions comes a hop behind them, so that sending need not wait for the work.
        return (send(text), of_audio, merged(send(of_text), to_text)), None

    def one_tile(text: Clips, of_text: Clips, blocks: tuple[Clips, Clips]) -> tuple[Clips, Clips]:
        audio, of_audio = blocks
        to_audio, to_text = tile(audio, text)
        return merged(of_text, to_text), merged(of_audio, to_audio)

    of_audio = jax.tree.map(lambda x: jnp.broadcast_to(x, (blocks, *x.shape)), empty_audio)
    of_audio, of_text = jax.lax.scan(one_round, of_audio, text)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:clips], (of_audio, of_text))


def _blocks(tree: Clips, block: int) -> Clips:
    """Cuts the clips into the fewest blocks of equal size, [n, ...] to [n / block, block, ...], filled with zeros."""

    def cut(x: Array) -> Array:
        count = -(-x.shape[0] // block)
        size = -(-x.shape[0] // count)
        padding = [(0, count * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(count, size, *x.shape[1:])

    return jax.tree.map(cut, tree)


def exact_product(left: Float[Array, "N E"], right: Float[Array, "E M"]) -> Float[Array, "N M"]:
    """Matrix product in true fp32, which matrix units of accelerators round to less unless they are told."""
    return jnp.matmul(left, right, precision="highest")
