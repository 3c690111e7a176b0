"""Cross-entropy over the vocabulary, a part of it and of each row at a time: no [R, T, V] logits, forward or backward.

Captions fill the beginning of each row's T tokens, often a quarter of them. Which tokens are real is data, so they
cannot be picked out with static shapes; but each device can stop after its fullest row, and does: the ends of the rows
cost nothing. (Sorting the tokens of a device's rows would save the rest, some per cent, for a gather and a scatter.)

Captioning: the decoder predicts each caption token from the ones before it and the clip's dense features.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from slap_jax.models.caption_decoder import CaptionDecoder
from slap_jax.objectives.base import BatchContext, LossTerm, StepContext, token_weights, total_weight, weighted
from slap_jax.objectives.chunks import (
    even_size,
    max_over,
    over_parts,
    padded,
    part,
    put_part,
    row_axes,
    split_axes,
    sum_over,
    used_parts,
)
from slap_jax.parallel.sharding import BATCH_SPEC, shard_map_if_mesh

# Tokens of one device that are multiplied with a part of the vocabulary at a time: enough for full matrix units.
TOKENS_AT_A_TIME = 2_048


def token_losses(
    hidden: Float[Array, "R T W"],
    table: Float[Array, "V W"],
    targets: Int[Array, "R T"],
    real: Bool[Array, "R T"],
    chunk: int,
) -> tuple[Float[Array, "R T"], Bool[Array, "R T"]]:
    """Returns each token's `-log softmax(hidden @ table.T)[target]`, and whether the target is the likeliest token.

    Both are 0 where a token is not real. With the vocabulary split over `tensor`, each way scores tokens of its own.

    Args:
        hidden: states that predict, in the type of the computation; the logits are fp32.
        table: fp32 output vectors of the vocabulary, computed with in the type of `hidden`; their gradient is added up
            in fp32, within a device and over devices.
        targets: ids to predict.
        real: which tokens count.
        chunk: tokens of the vocabulary at a time; their logits are computed again in the backward pass.
    """
    return _losses_with_gradient(hidden, table, targets, real, chunk)


def _losses(hidden: Array, table: Array, targets: Array, real: Array, chunk: int) -> tuple[Array, Array]:
    return _forward(hidden, table, targets, real, chunk)[0]


def _sizes(hidden: Array, table: Array, chunk: int) -> tuple[int, int]:
    """Places of a row, and tokens of the vocabulary, at a time."""
    rows, length, _ = hidden.shape
    return even_size(length, max(TOKENS_AT_A_TIME // rows, 1)), even_size(table.shape[0], chunk)


def _vocabulary_parts(table: Array, size: int, split: tuple[str, ...]) -> tuple[Array, Array, Array]:
    """Returns the vectors [n, size, W] of each part, whether there is one [n, size], and the part's first id [n]."""
    here = table.shape[0]
    parts = padded(table[None], size)[0].reshape(-1, size, table.shape[1])
    places = jnp.arange(parts.shape[0] * size).reshape(-1, size)
    first = jax.lax.axis_index(split) * here if split else 0
    return parts, places < here, first + places[:, 0]


def _forward(hidden: Array, table: Array, targets: Array, real: Array, chunk: int) -> tuple[tuple, tuple]:
    split = split_axes(table.shape[0])

    def local(hidden: Array, table: Array, targets: Array, real: Array) -> tuple[Array, Array, Array]:
        size, vocabulary_size = _sizes(hidden, table, chunk)
        length = hidden.shape[1]
        hidden, wanted, used = padded(hidden, size), padded(targets, size), used_parts(real, size)

        def add_vocabulary(carry: tuple, of_part: tuple) -> tuple[tuple, None]:
            vectors, exists, first = of_part

            def add(index: Array, carry: tuple) -> tuple:
                highest, total, chosen = (part(x, index, size) for x in carry)
                logits = _logits(part(hidden, index, size), vectors, exists)
                raised = jnp.maximum(highest, jnp.max(logits, axis=-1))
                total = total * jnp.exp(highest - raised) + jnp.sum(jnp.exp(logits - raised[:, None]), axis=-1)
                is_target = part(wanted, index, size)[:, None] == first + jnp.arange(len(vectors))
                # At most one of the logits is the target's, and it may belong to another part.
                chosen += jnp.sum(jnp.where(is_target & exists, logits, 0.0), axis=-1)
                return tuple(put_part(x, y, index, size) for x, y in zip(carry, (raised, total, chosen), strict=True))

            return over_parts(add, carry, used, hidden.shape[1], size), None

        zeros = jnp.zeros(hidden.shape[:2])
        start = (jnp.full_like(zeros, -jnp.inf), zeros, zeros)
        (highest, total, chosen), _ = jax.lax.scan(
            add_vocabulary, start, _vocabulary_parts(table, vocabulary_size, split)
        )
        highest_anywhere = max_over(highest, split)
        # Places never visited have no finite maximum; `real` hides what comes of them.
        total, chosen = sum_over((total * jnp.exp(highest - highest_anywhere), chosen), split)
        normaliser = highest_anywhere + jnp.log(total)
        losses, correct = normaliser - chosen, chosen >= highest_anywhere
        return (
            jnp.where(real, losses[:, :length], 0.0),
            real & correct[:, :length],
            jnp.where(real, normaliser[:, :length], 0.0),
        )

    computed_with = table.astype(hidden.dtype)
    losses, correct, normaliser = shard_map_if_mesh(
        local,
        in_specs=(BATCH_SPEC, PartitionSpec(*split), BATCH_SPEC, BATCH_SPEC),
        out_specs=(BATCH_SPEC, BATCH_SPEC, BATCH_SPEC),
    )(hidden, computed_with, targets, real)
    return (losses, correct), (hidden, table, targets, real, normaliser)


def _backward(chunk: int, kept: tuple, factors: tuple) -> tuple:
    hidden, table, targets, real, normaliser = kept
    split, rows = split_axes(table.shape[0]), row_axes()

    def local(hidden: Array, table: Array, targets: Array, real: Array, normaliser: Array, factor: Array) -> tuple:
        size, vocabulary_size = _sizes(hidden, table, chunk)
        length, dtype, here = hidden.shape[1], hidden.dtype, table.shape[0]
        factor = jnp.where(real, factor, 0.0)
        hidden, wanted, used = padded(hidden, size), padded(targets, size), used_parts(real, size)
        normaliser, factor = padded(normaliser, size), padded(factor, size)

        def add_vocabulary(of_hidden: Array, of_part: tuple) -> tuple[Array, Array]:
            vectors, exists, first = of_part

            def add(index: Array, carry: tuple) -> tuple:
                of_hidden, of_vectors = carry
                states = part(hidden, index, size)
                prediction = jnp.exp(_logits(states, vectors, exists) - part(normaliser, index, size)[:, None])
                is_target = part(wanted, index, size)[:, None] == first + jnp.arange(len(vectors))
                of_logits = (prediction - (is_target & exists)) * part(factor, index, size)[:, None]
                of_logits = of_logits.astype(dtype)
                of_states = jnp.matmul(of_logits, vectors, preferred_element_type=jnp.float32)
                of_vectors += jnp.matmul(of_logits.T, states, preferred_element_type=jnp.float32)
                return put_part(of_hidden, part(of_hidden, index, size) + of_states, index, size), of_vectors

            start = (of_hidden, jnp.zeros(vectors.shape, jnp.float32))
            return over_parts(add, start, used, hidden.shape[1], size)

        of_hidden, of_vectors = jax.lax.scan(
            add_vocabulary,
            jnp.zeros(hidden.shape, jnp.float32),
            _vocabulary_parts(table, vocabulary_size, split),
        )
        of_table = of_vectors.reshape(-1, table.shape[1])[:here]
        return sum_over(of_hidden[:, :length], split).astype(dtype), sum_over(of_table, rows)

    of_table = PartitionSpec(*split)
    of_hidden, of_vectors = shard_map_if_mesh(
        local,
        in_specs=(BATCH_SPEC, of_table, BATCH_SPEC, BATCH_SPEC, BATCH_SPEC, BATCH_SPEC),
        out_specs=(BATCH_SPEC, of_table),
    )(hidden, table.astype(hidden.dtype), targets, real, normaliser, factors[0])
    return of_hidden, of_vectors.astype(table.dtype), None, None


def _logits(states: Float[Array, "n W"], vectors: Float[Array, "v W"], exists: Bool[Array, " v"]) -> Array:
    """Returns fp32 logits [n, v], -inf where there is no token."""
    return jnp.where(exists, jnp.matmul(states, vectors.T, preferred_element_type=jnp.float32), -jnp.inf)


_losses_with_gradient = jax.custom_vjp(_losses, nondiff_argnums=(4,))


_losses_with_gradient.defvjp(_forward, _backward)


def next_tokens(tokens: Int[Array, "R T"], segments: Int[Array, "R T"]) -> tuple[Int[Array, "R T"], Bool[Array, "R T"]]:
    """The token that follows each one in its own caption, and where there is one."""
    following = jnp.roll(tokens, -1, axis=1)
    same = (jnp.roll(segments, -1, axis=1) == segments) & (segments > 0)
    return following, same.at[:, -1].set(False)


class Captioning(nnx.Module):
    """Token cross-entropy with teacher forcing, averaged over all real tokens of the global batch.

    Where sources count differently, every token counts as much as its clip does.
    """

    teacher_parameters: tuple[str, ...] = ()

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the caption decoder, which training needs and `export` keeps."""
        self.vocabulary_chunk = config.objectives.captioning.vocabulary_chunk
        self.decoder = CaptionDecoder(config.model, config.model.audio_encoder.width, rngs=rngs)

    def forward(self, context: StepContext) -> dict[str, Array]:
        """Returns every token's cross-entropy in nats, and whether the likeliest token is the next one, [R, T]."""
        batch = context.batch
        hidden = self.decoder(
            batch.text_tokens,
            batch.text_segment_ids,
            batch.text_positions,
            context.audio_tokens,
            context.token_segments,
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
