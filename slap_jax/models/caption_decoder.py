"""The caption decoder: writes a clip's caption from its dense audio features."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from slap_jax.models.layers import Embedding, Linear, rotation_1d
from slap_jax.models.transformer import Transformer
from slap_jax.parallel.sharding import BATCH_SPEC, constrain

# The ids that every vocabulary of `slap tokenizer` gives to padding, start and end; configs of before
# `config.model.pad_id`, `bos_id` and `eos_id` mean these.
PAD, BOS, EOS = 0, 1, 2

Cache = tuple[Array, Array]  # keys and values [layers, R, N, max_tokens, H, d]
Carry = tuple[Array, Array, Array, Array, Cache]  # position, newest, done, written, cache
Forward = Callable[[Array, Array, Cache], tuple[Array, Cache]]  # newest tokens, their position, cache -> logits, cache


class BeamCarry(NamedTuple):
    """What one step of beam search hands to the next.

    Attributes:
        position: tokens written so far.
        newest: the last one of each.
        done: whether a caption has its EOS.
        written: tokens.
        sums: of the log-probabilities of the tokens.
        lengths: tokens with EOS.
        cache: of all captions.
    """

    position: Int[Array, ""]
    newest: Int[Array, "R K B"]
    done: Bool[Array, "R K B"]
    written: Int[Array, "R K B max_tokens"]
    sums: Float[Array, "R K B"]
    lengths: Int[Array, "R K B"]
    cache: Cache


class CaptionDecoder(nnx.Module):
    """Causal Transformer within each caption, reading the audio tokens of the same slot; output tied to the input."""

    def __init__(self, model_config: ConfigDict, memory_width: int, *, rngs: nnx.Rngs):
        """Creates the decoder of `config.model.caption_decoder` that reads features of `memory_width`."""
        tower = model_config.caption_decoder
        dtype = jnp.dtype(model_config.compute_dtype)
        self.head_dim = tower.width // tower.heads
        self.heads = tower.heads
        self.layers = tower.layers
        self.rope_base = float(tower.rope_base)
        self.pad = int(model_config.get("pad_id", PAD))
        self.bos = int(model_config.get("bos_id", BOS))
        self.eos = int(model_config.get("eos_id", EOS))
        self.embedding = Embedding(model_config.vocab_size, tower.width, tied=True, dtype=dtype, rngs=rngs)
        self.memory_projection = Linear(memory_width, tower.width, dtype=dtype, rngs=rngs)
        self.transformer = Transformer.of_tower(model_config, tower, causal=True, cross=True, rngs=rngs)

    def __call__(
        self,
        text_tokens: Int[Array, "R T"],
        text_segment_ids: Int[Array, "R T"],
        text_positions: Int[Array, "R T"],
        memory: Float[Array, "R L M"],
        memory_segments: Int[Array, "R L"],
    ) -> Float[Array, "R T W"]:
        """Teacher forcing: the hidden state at each token, from which `logits` predicts the next one.

        Args:
            text_tokens: packed captions, each `BOS ... EOS`.
            text_segment_ids: slot + 1 of each token, 0 for padding.
            text_positions: index of each token inside its caption.
            memory: audio tokens before pooling.
            memory_segments: slot + 1 of each audio token, 0 for padding.
        """
        rotation = rotation_1d(text_positions, self.head_dim, self.rope_base)
        x = constrain(self.embedding(text_tokens), BATCH_SPEC)
        memory = constrain(self.memory_projection(memory), BATCH_SPEC)
        return constrain(self.transformer(x, text_segment_ids, rotation, memory, memory_segments), BATCH_SPEC)

    def logits(self, hidden: Float[Array, "*batch W"]) -> Float[Array, "*batch V"]:
        """Returns fp32 scores of the next token over the vocabulary."""
        return self.embedding.logits(hidden)

    def greedy(
        self, memory: Float[Array, "R L M"], memory_segments: Int[Array, "R L"], slots: int, max_tokens: int
    ) -> Int[Array, "R K max_tokens"]:
        """Writes a caption for every slot, taking the likeliest token each time; stops when all are done.

        Args:
            memory: audio tokens before pooling.
            memory_segments: slot + 1 of each audio token, 0 for padding.
            slots: K.
            max_tokens: longest caption, EOS included.

        Returns:
            The tokens after BOS: up to and with EOS, then PAD; all PAD for a slot without audio.
        """
        forward, cache = self._decoding(memory, memory_segments, slots, max_tokens)

        def unfinished(carry: Carry) -> Bool[Array, ""]:
            position, _, done, _, _ = carry
            return (position < max_tokens) & ~jnp.all(done)

        def step(carry: Carry) -> Carry:
            position, newest, done, written, cache = carry
            logits, cache = forward(newest, position, cache)
            chosen = jnp.where(done, self.pad, jnp.argmax(logits, axis=-1).astype(jnp.int32))
            written = jax.lax.dynamic_update_index_in_dim(written, chosen, position, axis=2)
            return position + 1, chosen, done | (chosen == self.eos), written, cache

        shape = (memory.shape[0], slots)
        start = jnp.full(shape, self.bos, jnp.int32)
        written = jnp.full((*shape, max_tokens), self.pad, jnp.int32)
        carry = (jnp.zeros((), jnp.int32), start, ~_present(memory_segments, slots), written, cache)
        return jax.lax.while_loop(unfinished, step, carry)[3]

    def beam(
        self,
        memory: Float[Array, "R L M"],
        memory_segments: Int[Array, "R L"],
        slots: int,
        max_tokens: int,
        beams: int,
        length_power: float = 1.0,
    ) -> tuple[Int[Array, "R K max_tokens"], Float[Array, "R K"]]:
        """Writes a caption for every slot by beam search.

        The score of a caption is the sum of its tokens' log-probabilities divided by `length ** length_power`, where
        the length counts EOS: with power 1 the mean per token, so that long captions are not at a disadvantage; with 0
        the log-probability of the whole. At each step the best `beams` are kept among all continuations of those that
        are not finished and those that are, compared by this score; it ends when all that are kept are finished. One
        beam is greedy decoding.

        Args:
            memory: audio tokens before pooling.
            memory_segments: slot + 1 of each audio token, 0 for padding.
            slots: K.
            max_tokens: longest caption, EOS included; one that reaches it without EOS counts as it is.
            beams: beginnings that are kept.
            length_power: see above.

        Returns:
            The tokens of the best caption of each slot as `greedy` returns them, and its score; 0 without audio.
        """
        rows, vocabulary = memory.shape[0], self.embedding.table.shape[0]
        forward, cache = self._decoding(memory, memory_segments, slots, max_tokens, beams)
        group = (rows, slots, beams)

        def reordered(x: Array, parents: Int[Array, "R K B"], axis: int) -> Array:
            """Takes each beam's own beginning; beams are the slots of the decoder, at `axis`."""
            index = (jnp.arange(slots)[:, None] * beams + parents).reshape(rows, slots * beams)
            index = index.reshape((1,) * (axis - 1) + index.shape + (1,) * (x.ndim - axis - 1))
            return jnp.take_along_axis(x, index, axis=axis)

        def unfinished(carry: BeamCarry) -> Bool[Array, ""]:
            return (carry.position < max_tokens) & ~jnp.all(carry.done)

        def step(carry: BeamCarry) -> BeamCarry:
            logits, cache = forward(carry.newest.reshape(rows, -1), carry.position, carry.cache)
            gains = jax.nn.log_softmax(logits.reshape(*group, vocabulary), axis=-1)
            # A finished caption has one continuation, itself.
            itself = jnp.where(jnp.arange(vocabulary) == self.pad, 0.0, -jnp.inf)
            sums = carry.sums[..., None] + jnp.where(carry.done[..., None], itself, gains)
            lengths = carry.lengths + jnp.where(carry.done, 0, 1)
            scores = (sums / jnp.maximum(lengths, 1)[..., None] ** length_power).reshape(
                rows, slots, beams * vocabulary
            )
            _, best = jax.lax.top_k(scores, beams)
            parents, chosen = best // vocabulary, (best % vocabulary).astype(jnp.int32)
            was_done = jnp.take_along_axis(carry.done, parents, axis=2)
            written = reordered(carry.written.reshape(rows, -1, max_tokens), parents, 1)
            written = jax.lax.dynamic_update_index_in_dim(written, chosen.reshape(rows, -1), carry.position, axis=2)
            return BeamCarry(
                position=carry.position + 1,
                newest=chosen,
                done=was_done | (chosen == self.eos),
                written=written.reshape(*group, max_tokens),
                sums=jnp.take_along_axis(sums.reshape(rows, slots, -1), best, axis=2),
                lengths=jnp.take_along_axis(lengths, parents, axis=2),
                cache=(reordered(cache[0], parents, 2), reordered(cache[1], parents, 2)),
            )

        absent = jnp.broadcast_to(~_present(memory_segments, slots)[..., None], group)
        carry = BeamCarry(
            position=jnp.zeros((), jnp.int32),
            newest=jnp.full(group, self.bos, jnp.int32),
            done=absent,
            written=jnp.full((*group, max_tokens), self.pad, jnp.int32),
            # All start alike: only the first counts.
            sums=jnp.broadcast_to(jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf), group),
            lengths=jnp.zeros(group, jnp.int32),
            cache=cache,
        )
        last = jax.lax.while_loop(unfinished, step, carry)
        return last.written[:, :, 0], last.sums[:, :, 0] / jnp.maximum(last.lengths[:, :, 0], 1) ** length_power

    def _decoding(
        self,
        memory: Float[Array, "R L M"],
        memory_segments: Int[Array, "R L"],
        slots: int,
        max_tokens: int,
        beams: int = 1,
    ) -> tuple[Forward, Cache]:
        """Returns a function that advances `slots * beams` captions of each row by a token, and its empty cache."""
        rows, writers = memory.shape[0], slots * beams
        memory = self.memory_projection(memory)
        graphdef, state = nnx.split(self.transformer.blocks)
        _, layer_memory = jax.lax.scan(
            lambda _, state: (None, nnx.merge(graphdef, state).layers["global"].cross_attention.keys_values(memory)),
            None,
            state,
        )
        shape = (self.layers, rows, writers, max_tokens, self.heads, self.head_dim)
        cache = (jnp.zeros(shape, memory.dtype), jnp.zeros(shape, memory.dtype))

        def forward(newest: Int[Array, "R N"], position: Array, cache: Cache) -> tuple[Array, Cache]:
            rotation = rotation_1d(jnp.broadcast_to(position, (rows, writers)), self.head_dim, self.rope_base)

            def layer(x: Array, inputs: tuple) -> tuple[Array, Cache]:
                state, layer_cache, keys_values = inputs
                block = nnx.merge(graphdef, state).layers["global"]
                return block.decode(x, rotation, layer_cache, position, keys_values, memory_segments, beams)

            x, cache = jax.lax.scan(layer, self.embedding(newest), (state, cache, layer_memory))
            return self.logits(self.transformer.norm(x)), cache

        return forward, cache


def _present(memory_segments: Int[Array, "R L"], slots: int) -> Bool[Array, "R K"]:
    """Whether a slot has audio."""
    return jnp.any(memory_segments[:, None, :] == jnp.arange(1, slots + 1)[:, None], axis=-1)
