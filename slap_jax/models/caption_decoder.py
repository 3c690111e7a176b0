"""The caption decoder: predicts, and writes, the caption of a clip from its dense audio features."""

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

Cache = tuple[Array, Array]  # keys and values [layers, R, N, max_tokens, H, d]
GreedyCarry = tuple[Array, Array, Array, Array, Cache]  # position, newest, done, written, cache
Forward = Callable[[Array, Array, Cache], tuple[Array, Cache]]  # newest tokens, their position, cache -> logits, cache


class BeamCarry(NamedTuple):
    """The state of beam search between two steps.

    Attributes:
        position: number of tokens written so far.
        newest: last token of each beam.
        done: whether the beam has reached EOS.
        written: tokens of each beam.
        sums: log-probability of each beam, the sum over its tokens.
        lengths: number of tokens of each beam, EOS included.
        cache: keys and values of all beams.
    """

    position: Int[Array, ""]
    newest: Int[Array, "R K B"]
    done: Bool[Array, "R K B"]
    written: Int[Array, "R K B max_tokens"]
    sums: Float[Array, "R K B"]
    lengths: Int[Array, "R K B"]
    cache: Cache


class CaptionDecoder(nnx.Module):
    """A causal Transformer over packed captions that attends to the audio tokens of the same slot.

    The output logits are tied to the input embeddings.
    """

    def __init__(self, model_config: ConfigDict, memory_width: int, *, rngs: nnx.Rngs):
        """Creates the decoder of `config.model.caption_decoder` for audio features of `memory_width`."""
        tower = model_config.caption_decoder
        dtype = jnp.dtype(model_config.compute_dtype)
        self.head_dim = tower.width // tower.heads
        self.heads = tower.heads
        self.layers = tower.layers
        self.rope_base = float(tower.rope_base)
        self.pad, self.bos, self.eos = model_config.pad_id, model_config.bos_id, model_config.eos_id
        self.embedding = Embedding(model_config.vocab_size, tower.width, tied=True, dtype=dtype, rngs=rngs)
        self.memory_projection = Linear(memory_width, tower.width, dtype=dtype, rngs=rngs)
        self.transformer = Transformer.from_config(model_config, tower, causal=True, cross=True, rngs=rngs)

    def __call__(
        self,
        text_tokens: Int[Array, "R T"],
        text_segment_ids: Int[Array, "R T"],
        text_positions: Int[Array, "R T"],
        memory: Float[Array, "R L M"],
        memory_segment_ids: Int[Array, "R L"],
    ) -> Float[Array, "R T W"]:
        """Returns the hidden state at each token of given captions, from which `logits` predicts the next token.

        Args:
            text_tokens: packed captions, each `BOS ... EOS`.
            text_segment_ids: slot + 1 of each token, 0 for padding.
            text_positions: index of each token in its caption.
            memory: audio tokens before pooling.
            memory_segment_ids: slot + 1 of each audio token, 0 for padding.
        """
        rotation = rotation_1d(text_positions, self.head_dim, self.rope_base)
        x = constrain(self.embedding(text_tokens), BATCH_SPEC)
        memory = constrain(self.memory_projection(memory), BATCH_SPEC)
        return constrain(self.transformer(x, text_segment_ids, rotation, memory, memory_segment_ids), BATCH_SPEC)

    def logits(self, hidden: Float[Array, "*batch W"]) -> Float[Array, "*batch V"]:
        """Returns fp32 logits of the next token."""
        return self.embedding.logits(hidden)

    def greedy(
        self, memory: Float[Array, "R L M"], memory_segment_ids: Int[Array, "R L"], slots: int, max_tokens: int
    ) -> Int[Array, "R K max_tokens"]:
        """Writes a caption for every slot by taking the likeliest token each time.

        Args:
            memory: audio tokens before pooling.
            memory_segment_ids: slot + 1 of each audio token, 0 for padding.
            slots: K.
            max_tokens: maximum length of a caption, EOS included.

        Returns:
            The tokens after BOS, up to and including EOS, then PAD; all PAD for a slot without audio.
        """
        forward, cache = self._decoding(memory, memory_segment_ids, slots, max_tokens)

        def unfinished(carry: GreedyCarry) -> Bool[Array, ""]:
            position, _, done, _, _ = carry
            return (position < max_tokens) & ~jnp.all(done)

        def step(carry: GreedyCarry) -> GreedyCarry:
            position, newest, done, written, cache = carry
            logits, cache = forward(newest, position, cache)
            chosen = jnp.where(done, self.pad, jnp.argmax(logits, axis=-1).astype(jnp.int32))
            written = jax.lax.dynamic_update_index_in_dim(written, chosen, position, axis=2)
            return position + 1, chosen, done | (chosen == self.eos), written, cache

        shape = (memory.shape[0], slots)
        start = jnp.full(shape, self.bos, jnp.int32)
        written = jnp.full((*shape, max_tokens), self.pad, jnp.int32)
        carry = (jnp.zeros((), jnp.int32), start, ~_present(memory_segment_ids, slots), written, cache)
        return jax.lax.while_loop(unfinished, step, carry)[3]

    def beam(
        self,
        memory: Float[Array, "R L M"],
        memory_segment_ids: Int[Array, "R L"],
        slots: int,
        max_tokens: int,
        beams: int,
        length_power: float = 1.0,
    ) -> tuple[Int[Array, "R K max_tokens"], Float[Array, "R K"]]:
        """Writes a caption for every slot by beam search.

            score(y) = sum_t log p(y_t | y_<t, audio) / length(y)^length_power

        The length includes EOS. A power of 1 gives the mean per token, which does not favour short captions, and a
        power of 0 the log-probability. Each step keeps the `beams` best among the finished captions and all
        continuations of the others, and the search ends when all of them are finished. One beam is greedy decoding.

        Args:
            memory: audio tokens before pooling.
            memory_segment_ids: slot + 1 of each audio token, 0 for padding.
            slots: K.
            max_tokens: maximum length of a caption, EOS included; a caption cut off there is scored as it is.
            beams: number of captions kept per slot.
            length_power: exponent of the length.

        Returns:
            The tokens of the best caption of each slot, in the form of `greedy`, and its score; 0 without audio.
        """
        rows, vocabulary = memory.shape[0], self.embedding.table.shape[0]
        forward, cache = self._decoding(memory, memory_segment_ids, slots, max_tokens, beams)
        group = (rows, slots, beams)

        def take_parents(x: Array, parents: Int[Array, "R K B"], axis: int) -> Array:
            """Gathers the state of the beam that each new beam continues, along the decoder's slots at `axis`."""
            index = (jnp.arange(slots)[:, None] * beams + parents).reshape(rows, slots * beams)
            index = index.reshape((1,) * (axis - 1) + index.shape + (1,) * (x.ndim - axis - 1))
            return jnp.take_along_axis(x, index, axis=axis)

        def unfinished(carry: BeamCarry) -> Bool[Array, ""]:
            return (carry.position < max_tokens) & ~jnp.all(carry.done)

        def step(carry: BeamCarry) -> BeamCarry:
            logits, cache = forward(carry.newest.reshape(rows, -1), carry.position, carry.cache)
            log_probs = jax.nn.log_softmax(logits.reshape(*group, vocabulary), axis=-1)
            # The only continuation of a finished caption is itself.
            finished = jnp.where(jnp.arange(vocabulary) == self.pad, 0.0, -jnp.inf)
            sums = carry.sums[..., None] + jnp.where(carry.done[..., None], finished, log_probs)
            lengths = carry.lengths + jnp.where(carry.done, 0, 1)
            scores = (sums / jnp.maximum(lengths, 1)[..., None] ** length_power).reshape(
                rows, slots, beams * vocabulary
            )
            _, best = jax.lax.top_k(scores, beams)
            parents, chosen = best // vocabulary, (best % vocabulary).astype(jnp.int32)
            was_done = jnp.take_along_axis(carry.done, parents, axis=2)
            written = take_parents(carry.written.reshape(rows, -1, max_tokens), parents, 1)
            written = jax.lax.dynamic_update_index_in_dim(written, chosen.reshape(rows, -1), carry.position, axis=2)
            return BeamCarry(
                position=carry.position + 1,
                newest=chosen,
                done=was_done | (chosen == self.eos),
                written=written.reshape(*group, max_tokens),
                sums=jnp.take_along_axis(sums.reshape(rows, slots, -1), best, axis=2),
                lengths=jnp.take_along_axis(lengths, parents, axis=2),
                cache=(take_parents(cache[0], parents, 2), take_parents(cache[1], parents, 2)),
            )

        absent = jnp.broadcast_to(~_present(memory_segment_ids, slots)[..., None], group)
        carry = BeamCarry(
            position=jnp.zeros((), jnp.int32),
            newest=jnp.full(group, self.bos, jnp.int32),
            done=absent,
            written=jnp.full((*group, max_tokens), self.pad, jnp.int32),
            # All beams start alike, so only the first counts.
            sums=jnp.broadcast_to(jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf), group),
            lengths=jnp.zeros(group, jnp.int32),
            cache=cache,
        )
        last = jax.lax.while_loop(unfinished, step, carry)
        return last.written[:, :, 0], last.sums[:, :, 0] / jnp.maximum(last.lengths[:, :, 0], 1) ** length_power

    def _decoding(
        self,
        memory: Float[Array, "R L M"],
        memory_segment_ids: Int[Array, "R L"],
        slots: int,
        max_tokens: int,
        beams: int = 1,
    ) -> tuple[Forward, Cache]:
        """Returns a function that decodes one token of `slots * beams` captions per row, and its empty cache."""
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
                return block.decode(x, rotation, layer_cache, position, keys_values, memory_segment_ids, beams)

            x, cache = jax.lax.scan(layer, self.embedding(newest), (state, cache, layer_memory))
            return self.logits(self.transformer.norm(x)), cache

        return forward, cache


def _present(memory_segment_ids: Int[Array, "R L"], slots: int) -> Bool[Array, "R K"]:
    """Returns whether each slot has audio."""
    return jnp.any(memory_segment_ids[:, None, :] == jnp.arange(1, slots + 1)[:, None], axis=-1)
