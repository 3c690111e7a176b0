"""Which clips of the batch may repel each other."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from slap_jax.batch import PackedBatch


@flax.struct.dataclass
class ClipKeys:
    """What decides whether two clips are negatives of each other.

    Attributes:
        valid: the slot holds a clip that counts.
        recording: equal for clips of the same recording.
        caption: equal for clips with the same caption.
    """

    valid: Bool[Array, " N"]
    recording: Int[Array, " N"]
    caption: Int[Array, " N"]


def clip_keys(batch: PackedBatch) -> ClipKeys:
    """Returns the keys of all slots of a batch, N = R x K of them."""
    return ClipKeys(batch.clip_valid.reshape(-1), batch.clip_key.reshape(-1), caption_keys(batch).reshape(-1))


def are_negatives(audio: ClipKeys, text: ClipKeys) -> Bool[Array, "N M"]:
    """Which pairs (audio i, caption j) may repel each other.

    Two clips are no negatives of each other when they are the same recording or carry the same caption.
    """
    same = (audio.recording[:, None] == text.recording) | (audio.caption[:, None] == text.caption)
    return audio.valid[:, None] & text.valid & ~same


def caption_keys(batch: PackedBatch) -> Int[Array, "R K"]:
    """A 32-bit hash of each slot's caption, so that equal captions can be told without leaving the device."""
    tokens = batch.text_tokens.astype(jnp.uint32)
    position = batch.text_positions.astype(jnp.uint32)
    mixed = (tokens + jnp.uint32(1)) * (position * jnp.uint32(0x9E3779B1) + jnp.uint32(0x85EBCA77))
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0xC2B2AE3D)
    mixed = mixed ^ (mixed >> 13)
    slots = batch.clip_valid.shape[1]
    sums = jax.vmap(lambda row, segment: jnp.zeros(slots + 1, jnp.uint32).at[segment].add(row))(
        mixed, batch.text_segments
    )
    return jax.lax.bitcast_convert_type(sums[:, 1:], jnp.int32)
