"""Captioning: the decoder predicts each caption token from the tokens before it and the clip's dense audio features.

The cross-entropy over the vocabulary is computed for a chunk of the vocabulary and a chunk of each row at a time: no
[R, T, V] logits exist, forward or backward. Captions fill the beginning of each row, often a quarter of its T tokens.
How far is known only at run time, so static shapes cannot leave the padding out, but each device stops after its
fullest row. (Sorting the tokens of a device's rows would save a few per cent more and cost a gather and a scatter.)
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from slap_jax.models.caption_decoder import CaptionDecoder
from slap_jax.objectives.base import BatchContext, LossTerm, StepContext, token_weights, total_weight, weighted
from slap_jax.objectives.chunks import (
    batch_axes,
    chunk_size,
    loop_over_chunks,
    num_used_chunks,
    pad_to_multiple,
    pmax,
    psum,
    sharded_axes,
    take_chunk,
    update_chunk,
)
from slap_jax.parallel.sharding import BATCH_SPEC, shard_map_if_mesh

# Tokens of one device that meet a chunk of the vocabulary at a time: enough to fill the matrix units.
TOKENS_AT_A_TIME = 2_048


class Captioning(nnx.Module):
    """Token cross-entropy with teacher forcing, averaged over all real tokens of the global batch.

        loss = sum_t w_t -log softmax(h_t . E)[next token of t] / sum_t w_t

    where h_t is the decoder's hidden state at token t, E the vectors of the vocabulary, and w_t the weight of the clip.
    """

    teacher_parameters: tuple[str, ...] = ()

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the caption decoder, which exports keep."""
        self.vocabulary_chunk = config.objectives.captioning.vocabulary_chunk
        self.decoder = CaptionDecoder(config.model, config.model.audio_encoder.width, rngs=rngs)

    def forward(self, context: StepContext) -> dict[str, Array]:
        """Returns each token's cross-entropy in nats, and whether the likeliest token is the next one, [R, T]."""
        batch = context.batch
        hidden = self.decoder(
            batch.text_tokens,
            batch.text_segment_ids,
            batch.text_positions,
            context.audio_tokens,
            context.token_segment_ids,
        )
        targets, real = next_tokens(batch.text_tokens, batch.text_segment_ids)
        losses, correct = token_losses(hidden, self.decoder.embedding.table[...], targets, real, self.vocabulary_chunk)
        return {"losses": losses, "correct": correct}

    def loss(self, outputs: dict[str, Array], context: BatchContext) -> LossTerm:
        """Returns the mean cross-entropy in nats per token."""
        batch, weights = context.batch, context.clip_weights("captioning")
        _, real = next_tokens(batch.text_tokens, batch.text_segment_ids)
        if weights is not None:
            weights = token_weights(weights, batch.text_segment_ids)
        count = total_weight(real, weights)
        accuracy = jnp.sum(weighted(real & outputs["correct"], weights)) / count
        loss = jnp.sum(jnp.where(real, weighted(outputs["losses"], weights), 0.0)) / count
        return LossTerm(loss, {"caption_token_accuracy": accuracy})


def next_tokens(
    tokens: Int[Array, "R T"], segment_ids: Int[Array, "R T"]
) -> tuple[Int[Array, "R T"], Bool[Array, "R T"]]:
    """Returns the token after each one, and whether it belongs to the same caption."""
    targets = jnp.roll(tokens, -1, axis=1)
    same = (jnp.roll(segment_ids, -1, axis=1) == segment_ids) & (segment_ids > 0)
    return targets, same.at[:, -1].set(False)


def token_losses(
    hidden: Float[Array, "R T W"],
    table: Float[Array, "V W"],
    targets: Int[Array, "R T"],
    real: Bool[Array, "R T"],
    chunk: int,
) -> tuple[Float[Array, "R T"], Bool[Array, "R T"]]:
    """Returns each token's cross-entropy, and whether its target is the likeliest token; both 0 where not `real`.

        y_v  = hidden . table_v
        loss = logsumexp_v y_v - y_target

    The logsumexp is accumulated over chunks of the vocabulary as in FlashAttention: with m the running maximum and l
    the running sum of e^(y_v - m),

        m_next = max(m_prev, max_v y_v),  l = l e^(m_prev - m_next) + sum_v e^(y_v - m_next)

    If the vocabulary is sharded over `tensor`, each device scores its own part.

    Args:
        hidden: hidden states in the compute dtype; the logits are fp32.
        table: fp32 vectors of the vocabulary, cast to the dtype of `hidden`. Their gradient is accumulated in fp32,
            within a device and over devices.
        targets: ids to predict.
        real: which tokens count.
        chunk: number of vocabulary entries at a time; the backward pass computes their logits again.
    """
    return _token_losses(hidden, table, targets, real, chunk)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _token_losses(hidden: Array, table: Array, targets: Array, real: Array, chunk: int) -> tuple[Array, Array]:
    return _forward(hidden, table, targets, real, chunk)[0]


def _forward(hidden: Array, table: Array, targets: Array, real: Array, chunk: int) -> tuple[tuple, tuple]:
    shards = sharded_axes(table.shape[0])

    def local(hidden: Array, table: Array, targets: Array, real: Array) -> tuple[Array, Array, Array]:
        size, vocabulary_size = _chunk_sizes(hidden, table, chunk)
        length = hidden.shape[1]
        hidden, targets, num_chunks = (
            pad_to_multiple(hidden, size),
            pad_to_multiple(targets, size),
            num_used_chunks(real, size),
        )

        def vocabulary_loop(carry: tuple, vocabulary_chunk: tuple) -> tuple[tuple, None]:
            vectors, exists, first_id = vocabulary_chunk

            def token_loop(index: Array, carry: tuple) -> tuple:
                m_prev, l_prev, target_logit = (take_chunk(x, index, size) for x in carry)
                logits = _logits(take_chunk(hidden, index, size), vectors, exists)
                m_next = jnp.maximum(m_prev, jnp.max(logits, axis=-1))
                l_next = l_prev * jnp.exp(m_prev - m_next) + jnp.sum(jnp.exp(logits - m_next[:, None]), axis=-1)
                is_target = take_chunk(targets, index, size)[:, None] == first_id + jnp.arange(len(vectors))
                # The target is in one chunk of the vocabulary only, perhaps another one.
                target_logit += jnp.sum(jnp.where(is_target & exists, logits, 0.0), axis=-1)
                updates = (m_next, l_next, target_logit)
                return tuple(update_chunk(x, y, index, size) for x, y in zip(carry, updates, strict=True))

            return loop_over_chunks(token_loop, carry, num_chunks, hidden.shape[1], size), None

        zeros = jnp.zeros(hidden.shape[:2])
        init = (jnp.full_like(zeros, -jnp.inf), zeros, zeros)
        chunks = _vocabulary_chunks(table, vocabulary_size, shards)
        (m_local, l_local, target_logit), _ = jax.lax.scan(vocabulary_loop, init, chunks)
        m = pmax(m_local, shards)
        # Positions after the last chunk in use have no finite maximum; `real` hides them below.
        total, target_logit = psum((l_local * jnp.exp(m_local - m), target_logit), shards)
        logsumexp = m + jnp.log(total)
        losses, correct = logsumexp - target_logit, target_logit >= m
        return (
            jnp.where(real, losses[:, :length], 0.0),
            real & correct[:, :length],
            jnp.where(real, logsumexp[:, :length], 0.0),
        )

    losses, correct, logsumexp = shard_map_if_mesh(
        local,
        in_specs=(BATCH_SPEC, PartitionSpec(*shards), BATCH_SPEC, BATCH_SPEC),
        out_specs=(BATCH_SPEC, BATCH_SPEC, BATCH_SPEC),
    )(hidden, table.astype(hidden.dtype), targets, real)
    return (losses, correct), (hidden, table, targets, real, logsumexp)


def _backward(chunk: int, residuals: tuple, cotangents: tuple) -> tuple:
    """Gradients by d_y_v = d_loss (softmax(y)_v - [v = target])."""
    hidden, table, targets, real, logsumexp = residuals
    d_losses, _ = cotangents
    shards, rows = sharded_axes(table.shape[0]), batch_axes()

    def local(hidden: Array, table: Array, targets: Array, real: Array, logsumexp: Array, d_losses: Array) -> tuple:
        size, vocabulary_size = _chunk_sizes(hidden, table, chunk)
        length, dtype, num_local = hidden.shape[1], hidden.dtype, table.shape[0]
        d_losses = jnp.where(real, d_losses, 0.0)
        hidden, targets, num_chunks = (
            pad_to_multiple(hidden, size),
            pad_to_multiple(targets, size),
            num_used_chunks(real, size),
        )
        logsumexp, d_losses = pad_to_multiple(logsumexp, size), pad_to_multiple(d_losses, size)

        def vocabulary_loop(d_hidden: Array, vocabulary_chunk: tuple) -> tuple[Array, Array]:
            vectors, exists, first_id = vocabulary_chunk

            def token_loop(index: Array, carry: tuple) -> tuple:
                d_hidden, d_vectors = carry
                states = take_chunk(hidden, index, size)
                p = jnp.exp(_logits(states, vectors, exists) - take_chunk(logsumexp, index, size)[:, None])
                is_target = take_chunk(targets, index, size)[:, None] == first_id + jnp.arange(len(vectors))
                d_logits = (p - (is_target & exists)) * take_chunk(d_losses, index, size)[:, None]
                d_logits = d_logits.astype(dtype)
                d_states = jnp.matmul(d_logits, vectors, preferred_element_type=jnp.float32)
                d_vectors += jnp.matmul(d_logits.T, states, preferred_element_type=jnp.float32)
                return update_chunk(d_hidden, take_chunk(d_hidden, index, size) + d_states, index, size), d_vectors

            init = (d_hidden, jnp.zeros(vectors.shape, jnp.float32))
            return loop_over_chunks(token_loop, init, num_chunks, hidden.shape[1], size)

        d_hidden, d_vectors = jax.lax.scan(
            vocabulary_loop,
            jnp.zeros(hidden.shape, jnp.float32),
            _vocabulary_chunks(table, vocabulary_size, shards),
        )
        d_table = d_vectors.reshape(-1, table.shape[1])[:num_local]
        return psum(d_hidden[:, :length], shards).astype(dtype), psum(d_table, rows)

    table_spec = PartitionSpec(*shards)
    d_hidden, d_table = shard_map_if_mesh(
        local,
        in_specs=(BATCH_SPEC, table_spec, BATCH_SPEC, BATCH_SPEC, BATCH_SPEC, BATCH_SPEC),
        out_specs=(BATCH_SPEC, table_spec),
    )(hidden, table.astype(hidden.dtype), targets, real, logsumexp, d_losses)
    return d_hidden, d_table.astype(table.dtype), None, None


_token_losses.defvjp(_forward, _backward)


def _chunk_sizes(hidden: Array, table: Array, chunk: int) -> tuple[int, int]:
    """Returns the number of positions of a row and of vocabulary entries in a chunk."""
    rows, length, _ = hidden.shape
    return chunk_size(length, max(TOKENS_AT_A_TIME // rows, 1)), chunk_size(table.shape[0], chunk)


def _vocabulary_chunks(table: Array, size: int, shards: tuple[str, ...]) -> tuple[Array, Array, Array]:
    """Returns the vectors [n, size, W] of each chunk, which of them exist [n, size], and the chunk's first id [n]."""
    num_local = table.shape[0]
    vectors = pad_to_multiple(table[None], size)[0].reshape(-1, size, table.shape[1])
    index = jnp.arange(vectors.shape[0] * size).reshape(-1, size)
    offset = jax.lax.axis_index(shards) * num_local if shards else 0
    return vectors, index < num_local, offset + index[:, 0]


def _logits(states: Float[Array, "n W"], vectors: Float[Array, "v W"], exists: Bool[Array, " v"]) -> Array:
    """Returns fp32 logits [n, v], -inf for padding of the vocabulary."""
    return jnp.where(exists, jnp.matmul(states, vectors.T, preferred_element_type=jnp.float32), -jnp.inf)
