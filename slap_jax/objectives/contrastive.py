"""The contrastive objective over the global batch: softmax loss (CLIP) or sigmoid loss (SigLIP).

Letters: a_i and t_j are the unit vectors of audio i and caption j, and N(i) the negatives of clip i: all clips but
those that are the same recording or carry the same caption. Neither loss holds N x N scores: `reduce_over_pairs`
computes them tile by tile, and the backward pass computes them again.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.objectives.base import BatchContext, LossTerm, StepContext, total_weight, weighted
from slap_jax.parallel.sharding import AXES, BATCH_AXES, BATCH_SPEC, axis_size, constrain, shard_map_if_mesh

# Scores in true fp32: by default the matrix units of accelerators round their operands.
exact_matmul = functools.partial(jnp.matmul, precision="highest")

# A pytree of arrays whose leading axis is clips: those of the batch, of a device or of a tile.
Clips = Any
Tile = Callable[[Clips, Clips], tuple[Clips, Clips]]
Merge = Callable[[Array, Array], Array]


class Contrastive(nnx.Module):
    """Pulls a clip's audio and its caption together and pushes them away from those of other clips."""

    teacher_parameters: tuple[str, ...] = ()

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the learnable scale, and the bias of the sigmoid loss; their initial values are fixed."""
        settings = config.objectives.contrastive
        self.form, self.max_scale, self.block = settings.form, settings.max_scale, settings.block
        init_scale = settings.init_scale or {"softmax": 1 / 0.07, "sigmoid": 10.0}[settings.form]
        self.log_scale = nnx.Param(jnp.asarray(math.log(init_scale), jnp.float32))
        if self.form == "sigmoid":
            self.bias = nnx.Param(jnp.asarray(settings.init_bias, jnp.float32))

    @property
    def scale(self) -> Float[Array, ""]:
        """The inverse temperature, at most `max_scale`."""
        return jnp.minimum(jnp.exp(self.log_scale[...]), self.max_scale)

    def forward(self, context: StepContext) -> dict[str, Array]:
        """Returns the unit vectors of the clips' audio and captions, fp32 [R, K, E]."""
        return {"audio": context.audio_embeddings, "text": context.text_embeddings}

    def loss(self, outputs: dict[str, Array], context: BatchContext) -> LossTerm:
        """Returns the loss over the valid clips of the global batch, weighted by their sources."""
        # The losses split the clips over `tensor` too; the constraint brings the gradients back to rows.
        audio, text = (constrain(outputs[name].astype(jnp.float32), BATCH_SPEC) for name in ("audio", "text"))
        audio, text = (x.reshape(-1, x.shape[-1]) for x in (audio, text))
        batch, weights = context.batch, context.clip_weights("contrastive")
        if weights is not None:
            batch = batch.replace(clip_valid=weights > 0)  # clips of weight 0 are no negatives either
            weights = weights.reshape(-1)
        keys = clip_keys(batch)
        if self.form == "softmax":
            loss = softmax_loss(audio, text, self.scale, keys, weights, self.block)
        else:
            loss = sigmoid_loss(audio, text, self.scale, self.bias[...], keys, weights, self.block)
        metrics = {
            "temperature": 1.0 / self.scale,
            "embedding_spread": spread(audio, keys.valid),
            "text_embedding_spread": spread(text, keys.valid),
        }
        return LossTerm(loss, metrics)


def spread(embeddings: Float[Array, "N E"], valid: Bool[Array, " N"]) -> Float[Array, ""]:
    """Returns `1 - |mean unit vector|^2`: near 1 if the vectors are spread out, 0 if all have collapsed to one."""
    count = jnp.maximum(jnp.sum(valid), 1)
    mean = jnp.sum(jnp.where(valid[:, None], embeddings, 0.0), axis=0) / count
    return 1.0 - jnp.sum(mean**2)


# Which pairs are negatives.


@flax.struct.dataclass
class ClipKeys:
    """What decides whether two clips are negatives of each other.

    Attributes:
        valid: whether the slot holds a clip that counts.
        recording: equal for clips of the same recording.
        caption: equal for clips with the same caption.
    """

    valid: Bool[Array, " N"]
    recording: Int[Array, " N"]
    caption: Int[Array, " N"]


def clip_keys(batch: PackedBatch) -> ClipKeys:
    """Returns the keys of all N = R x K slots of a batch."""
    return ClipKeys(batch.clip_valid.reshape(-1), batch.clip_key.reshape(-1), caption_keys(batch).reshape(-1))


def caption_keys(batch: PackedBatch) -> Int[Array, "R K"]:
    """Hashes each slot's caption to 32 bits, so that equal captions are recognised on the device."""
    tokens = batch.text_tokens.astype(jnp.uint32)
    position = batch.text_positions.astype(jnp.uint32)
    mixed = (tokens + jnp.uint32(1)) * (position * jnp.uint32(0x9E3779B1) + jnp.uint32(0x85EBCA77))
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0xC2B2AE3D)
    mixed = mixed ^ (mixed >> 13)
    slots = batch.clip_valid.shape[1]
    sums = jax.vmap(lambda row, segment: jnp.zeros(slots + 1, jnp.uint32).at[segment].add(row))(
        mixed, batch.text_segment_ids
    )
    return jax.lax.bitcast_convert_type(sums[:, 1:], jnp.int32)


def negatives_mask(audio: ClipKeys, text: ClipKeys) -> Bool[Array, "N M"]:
    """Returns whether caption j is in N(i): both clips are valid, of other recordings, and have other captions."""
    same = (audio.recording[:, None] == text.recording) | (audio.caption[:, None] == text.caption)
    return audio.valid[:, None] & text.valid & ~same


# The softmax loss.


def softmax_loss(
    audio: Float[Array, "N E"],
    text: Float[Array, "N E"],
    scale: Float[Array, ""],
    keys: ClipKeys,
    weights: Float[Array, " N"] | None = None,
    block: int = 1_024,
) -> Float[Array, ""]:
    """Symmetric InfoNCE over the valid clips (CLIP, arXiv 2103.00020), with false negatives masked out.

        s_ij = scale a_i . t_j
        loss = -1 / 2N sum_i log(e^s_ii / (e^s_ii + sum_{j in N(i)} e^s_ij))
                           + log(e^s_ii / (e^s_ii + sum_{j in N(i)} e^s_ji))
             =  1 / 2N sum_i softplus(lse_i - s_ii) + softplus(lse'_i - s_ii)

    where lse_i and lse'_i are the logsumexp of the negatives of audio i and of caption i; they are -inf for a clip
    without negatives, whose loss is 0. Weights turn the mean over i into a weighted mean; as negatives all clips count
    alike.

    Args:
        audio: unit vectors; those of empty slots are ignored.
        text: unit vectors of the captions.
        scale: inverse temperature.
        keys: which clips count, and which pairs are negatives.
        weights: weight of each clip, 0 for empty slots.
        block: a device scores at most `block` x `block` pairs at a time.
    """
    audio = scale * audio
    positive = jnp.sum(audio * text, axis=-1)
    audio_lse, text_lse = logsumexp_of_negatives(audio, text, keys, block)
    losses = jax.nn.softplus(audio_lse - positive) + jax.nn.softplus(text_lse - positive)
    losses = jnp.where(keys.valid, weighted(losses, weights), 0.0)
    return jnp.sum(losses) / (2 * total_weight(keys.valid, weights))


def _logsumexp_of_negatives(
    audio: Float[Array, "N E"], text: Float[Array, "N E"], keys: ClipKeys, block: int
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Returns the logsumexp of the scores over the negatives of each audio and of each caption; -inf if it has none."""

    def tile(audio: Clips, text: Clips) -> tuple[Array, Array]:
        (audio, audio_keys), (text, text_keys) = audio, text
        scores = jnp.where(negatives_mask(audio_keys, text_keys), exact_matmul(audio, text.T), -jnp.inf)
        return jax.nn.logsumexp(scores, axis=1), jax.nn.logsumexp(scores, axis=0)

    return reduce_over_pairs(tile, (audio, keys), (text, keys), block, merge=jnp.logaddexp, identity=-jnp.inf)


def _softmax_forward(audio: Array, text: Array, keys: ClipKeys, block: int) -> tuple[tuple[Array, Array], tuple]:
    audio_lse, text_lse = _logsumexp_of_negatives(audio, text, keys, block)
    return (audio_lse, text_lse), ((audio, keys, audio_lse), (text, keys, text_lse))


def _softmax_backward(block: int, residuals: tuple, cotangents: tuple[Array, Array]) -> tuple[Array, Array, None]:
    """Gradients by d_s_ij = d_lse_i e^(s_ij - lse_i) + d_lse'_j e^(s_ij - lse'_j), for the negatives."""

    def tile(audio: Clips, text: Clips) -> tuple[Array, Array]:
        ((audio, audio_keys, audio_lse), d_audio_lse), ((text, text_keys, text_lse), d_text_lse) = audio, text
        scores = exact_matmul(audio, text.T)
        d_scores = d_audio_lse[:, None] * jnp.exp(scores - audio_lse[:, None]) + d_text_lse * jnp.exp(scores - text_lse)
        d_scores = jnp.where(negatives_mask(audio_keys, text_keys), d_scores, 0.0)
        return exact_matmul(d_scores, text), exact_matmul(d_scores.T, audio)

    audio, text = residuals
    return (*reduce_over_pairs(tile, (audio, cotangents[0]), (text, cotangents[1]), block), None)


logsumexp_of_negatives = jax.custom_vjp(_logsumexp_of_negatives, nondiff_argnums=(3,))
logsumexp_of_negatives.defvjp(_softmax_forward, _softmax_backward)


# The sigmoid loss.


def sigmoid_loss(
    audio: Float[Array, "N E"],
    text: Float[Array, "N E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    keys: ClipKeys,
    weights: Float[Array, " N"] | None = None,
    block: int = 1_024,
) -> Float[Array, ""]:
    """Sigmoid loss of every pair (SigLIP, arXiv 2303.15343), summed and divided by the number of valid clips.

        z_ij = scale a_i . t_j + bias
        loss = 1/N sum_i (softplus(-z_ii) + sum_{j in N(i)} softplus(z_ij))

    With weights, a pair has the mean weight of its two clips, and N is the sum of the weights.

    Args:
        audio: unit vectors; those of empty slots are ignored.
        text: unit vectors of the captions.
        scale: inverse temperature.
        bias: added to the scores.
        keys: which clips count, and which pairs are negatives.
        weights: weight of each clip, 0 for empty slots.
        block: a device scores at most `block` x `block` pairs at a time.
    """
    audio = scale * audio
    biases = jnp.broadcast_to(bias, keys.valid.shape)  # one per audio, since tiles read arrays of clips
    positive = weighted(jax.nn.softplus(-jnp.sum(audio * text, axis=-1) - biases), weights)
    negative = loss_of_negatives(audio, biases, text, keys, weights, block)
    return (jnp.sum(jnp.where(keys.valid, positive, 0.0)) + jnp.sum(negative)) / total_weight(keys.valid, weights)


def _loss_of_negatives(
    audio: Float[Array, "N E"],
    biases: Float[Array, " N"],
    text: Float[Array, "N E"],
    keys: ClipKeys,
    weights: Float[Array, " N"] | None,
    block: int,
) -> Float[Array, " N"]:
    """Returns the sum of softplus(z_ij) over the negatives of each audio, weighted by pair."""

    def tile(audio: Clips, text: Clips) -> tuple[Array, tuple[()]]:
        (audio, biases, *audio_facts), (text, *text_facts) = audio, text
        losses = jax.nn.softplus(exact_matmul(audio, text.T) + biases[:, None])
        return jnp.sum(_weigh_negatives(losses, audio_facts, text_facts), axis=1), ()

    return reduce_over_pairs(tile, (audio, biases, keys, weights), (text, keys, weights), block)[0]


def _sigmoid_forward(
    audio: Array, biases: Array, text: Array, keys: ClipKeys, weights: Array | None, block: int
) -> tuple[Array, tuple]:
    residuals = ((audio, biases, keys, weights), (text, keys, weights))
    return _loss_of_negatives(audio, biases, text, keys, weights, block), residuals


def _sigmoid_backward(block: int, residuals: tuple, cotangent: Array) -> tuple[Array, Array, Array, None, None]:
    """Gradients by d_z_ij = d_loss_i sigmoid(z_ij), for the negatives."""

    def tile(audio: Clips, text: Clips) -> tuple[tuple[Array, Array], Array]:
        (d_losses, (audio, biases, *audio_facts)), (text, *text_facts) = audio, text
        d_scores = d_losses[:, None] * jax.nn.sigmoid(exact_matmul(audio, text.T) + biases[:, None])
        d_scores = _weigh_negatives(d_scores, audio_facts, text_facts)
        return (exact_matmul(d_scores, text), jnp.sum(d_scores, axis=1)), exact_matmul(d_scores.T, audio)

    audio, text = residuals
    (d_audio, d_biases), d_text = reduce_over_pairs(tile, (cotangent, audio), text, block)
    return d_audio, d_biases, d_text, None, None


loss_of_negatives = jax.custom_vjp(_loss_of_negatives, nondiff_argnums=(5,))
loss_of_negatives.defvjp(_sigmoid_forward, _sigmoid_backward)


def _weigh_negatives(values: Float[Array, "N M"], audio_facts: Clips, text_facts: Clips) -> Float[Array, "N M"]:
    """Multiplies each pair by its mean weight, and sets pairs that are no negatives to 0."""
    (audio_keys, audio_weights), (text_keys, text_weights) = audio_facts, text_facts
    weights = None if audio_weights is None else (audio_weights[:, None] + text_weights) / 2
    return jnp.where(negatives_mask(audio_keys, text_keys), weighted(values, weights), 0.0)


# Reductions over all N x N pairs of the global batch, one tile at a time.
#
# Every device keeps the audio of its own clips. Blocks of captions and their partial results travel once around the
# ring of devices and have then met all audio. Memory grows with the clips of one device instead of the global batch,
# and only one tile of scores exists at a time.


def reduce_over_pairs(
    tile: Tile, audio: Clips, text: Clips, block: int, merge: Merge = jnp.add, identity: float = 0.0
) -> tuple[Clips, Clips]:
    """Reduces a function of all pairs over the captions of each audio and over the audio of each caption.

    Not differentiable; the losses compute their gradients with a second reduction.

    Args:
        tile: maps a block of audio and a block of captions to two partial results, one per audio and one per caption.
            Clips beyond the last one are zeros.
        audio: inputs of the tile for each clip's audio, arrays [N, ...].
        text: inputs of the tile for each clip's caption, arrays [N, ...].
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

    Devices along `tensor` hold the same rows. Splitting the clips over them too divides the pairs among them; otherwise
    they all compute the same pairs.
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
            text_block, text_acc = those of the neighbour
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
