"""The caption decoder: causal within a slot, reads its own slot only, and decodes with a cache as without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slap_jax.models.caption_decoder import CaptionDecoder

PAD, BOS, EOS = 0, 1, 2
MEMORY_WIDTH, SLOTS, MAX_TOKENS = 12, 3, 7
MEMORY = [[8, 0, 11], [20, 4, 6]]  # slot 2 of row 0 has no audio


@pytest.fixture
def setup(tiny_config, pack):
    decoder = CaptionDecoder(tiny_config.model, MEMORY_WIDTH, rngs=nnx.Rngs(0))
    # Far from initialisation, so that decoding depends on the audio and on the tokens before.
    graphdef, params = nnx.split(decoder)
    params = jax.tree.map(lambda p: p * 2.0 if p.ndim == 3 else p, params)
    memory_segments, _ = pack(MEMORY, 30)
    memory = jnp.asarray(np.random.default_rng(2).standard_normal((2, 30, MEMORY_WIDTH)) * 2, jnp.float32)
    return nnx.merge(graphdef, params), memory, memory_segments


def decode_without_cache(decoder, memory, memory_segments):
    """Every token from a full teacher-forced pass over all that was written so far."""
    segments = np.repeat(np.arange(1, SLOTS + 1), MAX_TOKENS)[None].repeat(2, axis=0)
    positions = np.tile(np.arange(MAX_TOKENS), SLOTS)[None].repeat(2, axis=0)
    tokens = np.full((2, SLOTS, MAX_TOKENS + 1), PAD, np.int32)
    tokens[:, :, 0] = BOS
    done = np.asarray([[n == 0 for n in row] for row in MEMORY])

    @jax.jit
    def logits(tokens):
        return decoder.logits(decoder(tokens, segments, positions, memory, memory_segments))

    for step in range(MAX_TOKENS):
        scores = logits(tokens[:, :, :MAX_TOKENS].reshape(2, -1)).reshape(2, SLOTS, MAX_TOKENS, -1)
        chosen = np.where(done, PAD, np.argmax(scores[:, :, step], axis=-1))
        tokens[:, :, step + 1] = chosen
        done |= chosen == EOS
    return tokens[:, :, 1:]


def test_greedy_with_cache_equals_argmax_of_the_full_forward(setup):
    decoder, memory, memory_segments = setup
    expected = decode_without_cache(decoder, memory, memory_segments)
    got = np.asarray(jax.jit(lambda m: decoder.greedy(m, memory_segments, SLOTS, MAX_TOKENS))(memory))
    assert got.shape == (2, SLOTS, MAX_TOKENS)
    np.testing.assert_array_equal(got, expected)
    assert (got[0, 1] == PAD).all()
    written = {tuple(caption) for caption in got.reshape(-1, MAX_TOKENS)}
    assert len(written) > 3  # the captions follow their audio
    assert max(len(set(caption)) for caption in written) > 2


def test_greedy_stops_a_caption_at_its_end_token(setup):
    decoder, memory, memory_segments = setup
    first = np.asarray(decoder.greedy(memory, memory_segments, SLOTS, MAX_TOKENS))
    # Exchange EOS with a token that some caption writes first at `place`: that caption ends there.
    row, slot, place = next(
        (row, slot, place)
        for row, slot, place in np.ndindex(first.shape)
        if place > 0 and first[row, slot, place] not in (PAD, BOS, EOS, *first[row, slot, :place])
    )
    target = first[row, slot, place]
    table = decoder.embedding.table
    table[...] = table[...].at[jnp.asarray([EOS, target])].set(table[...][jnp.asarray([target, EOS])])
    got = np.asarray(decoder.greedy(memory, memory_segments, SLOTS, MAX_TOKENS))
    np.testing.assert_array_equal(got[row, slot, :place], first[row, slot, :place])
    assert got[row, slot, place] == EOS and (got[row, slot, place + 1 :] == PAD).all()
    np.testing.assert_array_equal(got, decode_without_cache(decoder, memory, memory_segments))


def test_special_tokens_may_have_other_ids(tiny_config, setup):
    decoder, memory, memory_segments = setup
    first = np.asarray(decoder.greedy(memory, memory_segments, SLOTS, MAX_TOKENS))
    tiny_config.model.update(pad_id=37, bos_id=38, eos_id=39)
    other = CaptionDecoder(tiny_config.model, MEMORY_WIDTH, rngs=nnx.Rngs(0))
    nnx.update(other, nnx.state(decoder))
    # The vectors of the special tokens change their places, and nothing else does.
    order = np.arange(40)
    order[[PAD, BOS, EOS, 37, 38, 39]] = [37, 38, 39, PAD, BOS, EOS]
    other.embedding.table[...] = other.embedding.table[...][order]
    got = np.asarray(other.greedy(memory, memory_segments, SLOTS, MAX_TOKENS))
    np.testing.assert_array_equal(got, order[first])


def test_hidden_states_depend_on_earlier_tokens_and_own_audio_only(setup, pack):
    decoder, memory, memory_segments = setup
    segments, positions = pack([[5, 6, 4], [7, 5, 3]], 16)
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 40, (2, 16)))
    run = jax.jit(lambda tokens, memory: decoder(tokens, segments, positions, memory, memory_segments))
    hidden = run(tokens, memory)
    assert decoder.logits(hidden).shape == (2, 16, 40) and decoder.logits(hidden).dtype == jnp.float32

    changed = np.abs(run(tokens.at[1, 9].set(tokens[1, 9] + 1), memory) - hidden).max(-1) > 0
    np.testing.assert_array_equal(np.argwhere(changed), [[1, 9], [1, 10], [1, 11]])

    louder = memory * jnp.where(memory_segments == 3, 2.0, 1.0)[..., None]
    changed = np.abs(run(tokens, louder) - hidden).max(-1) > 0
    np.testing.assert_array_equal(changed, segments == 3)
