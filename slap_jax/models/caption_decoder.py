"""The caption decoder: writes a clip's caption from its dense audio features."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from slap_jax.models.layers import Embedding, Linear
from slap_jax.models.rope import rotation_1d
from slap_jax.models.transformer import Transformer
from slap_jax.parallel.per_device import ROWS, constrain

# The ids that every vocabulary of `slap tokenizer` gives to padding, start and end.
PAD, BOS, EOS = 0, 1, 2


Carry = tuple[Array, Array, Array, Array, tuple[Array, Array]]  # position, newest, done, written, cache


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
        self.embedding = Embedding(model_config.vocab_size, tower.width, tied=True, dtype=dtype, rngs=rngs)
        self.memory_projection = Linear(memory_width, tower.width, dtype=dtype, rngs=rngs)
        self.transformer = Transformer.of_tower(model_config, tower, causal=True, cross=True, rngs=rngs)

    def __call__(
        self,
        text_tokens: Int[Array, "R T"],
        text_segments: Int[Array, "R T"],
        text_positions: Int[Array, "R T"],
        memory: Float[Array, "R L M"],
        memory_segments: Int[Array, "R L"],
    ) -> Float[Array, "R T W"]:
        """Teacher forcing: the hidden state at each token, from which `logits` predicts the next one.

        Args:
            text_tokens: packed captions, each `BOS ... EOS`.
            text_segments: slot + 1 of each token, 0 for padding.
            text_positions: index of each token inside its caption.
            memory: audio tokens before pooling.
            memory_segments: slot + 1 of each audio token, 0 for padding.
        """
        rotation = rotation_1d(text_positions, self.head_dim, self.rope_base)
        x = constrain(self.embedding(text_tokens), ROWS)
        memory = constrain(self.memory_projection(memory), ROWS)
        return constrain(self.transformer(x, text_segments, rotation, memory, memory_segments), ROWS)

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
        rows = memory.shape[0]
        memory = self.memory_projection(memory)
        graphdef, state = nnx.split(self.transformer.blocks)
        _, layer_memory = jax.lax.scan(
            lambda _, state: (None, nnx.merge(graphdef, state).layers["global"].cross_attention.keys_values(memory)),
            None,
            state,
        )
        shape = (self.layers, rows, slots, max_tokens, self.heads, self.head_dim)
        cache = (jnp.zeros(shape, memory.dtype), jnp.zeros(shape, memory.dtype))
        present = jnp.any(memory_segments[:, None, :] == jnp.arange(1, slots + 1)[:, None], axis=-1)

        def forward(newest: Int[Array, "R K"], position: Array, cache: tuple[Array, Array]) -> tuple[Array, tuple]:
            rotation = rotation_1d(jnp.broadcast_to(position, (rows, slots)), self.head_dim, self.rope_base)

            def layer(x: Array, inputs: tuple) -> tuple[Array, tuple[Array, Array]]:
                state, layer_cache, keys_values = inputs
                block = nnx.merge(graphdef, state).layers["global"]
                return block.decode(x, rotation, layer_cache, position, keys_values, memory_segments)

            x, cache = jax.lax.scan(layer, self.embedding(newest), (state, cache, layer_memory))
            return self.logits(self.transformer.norm(x)), cache

        def unfinished(carry: Carry) -> Bool[Array, ""]:
            position, _, done, _, _ = carry
            return (position < max_tokens) & ~jnp.all(done)

        def step(carry: Carry) -> Carry:
            position, newest, done, written, cache = carry
            logits, cache = forward(newest, position, cache)
            chosen = jnp.where(done, PAD, jnp.argmax(logits, axis=-1).astype(jnp.int32))
            written = jax.lax.dynamic_update_index_in_dim(written, chosen, position, axis=2)
            return position + 1, chosen, done | (chosen == EOS), written, cache

        start = jnp.full((rows, slots), BOS, jnp.int32)
        written = jnp.full((rows, slots, max_tokens), PAD, jnp.int32)
        carry = (jnp.zeros((), jnp.int32), start, ~present, written, cache)
        return jax.lax.while_loop(unfinished, step, carry)[3]
