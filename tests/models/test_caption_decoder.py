"""The caption decoder: causal within a slot, attends to its own slot, and decodes with a cache as without; beam search
against a search through all captions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slap_jax.config.defaults import default_config
from slap_jax.models.caption_decoder import CaptionDecoder

pytestmark = pytest.mark.compile

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
    """Decodes every token with a full teacher-forced pass over the tokens so far."""
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
    # Only the embeddings of the special tokens are exchanged.
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


VOCABULARY, LONGEST = 5, 3
SEED = 2
ALL_PREFIXES = VOCABULARY**LONGEST  # number of prefixes


@pytest.fixture(scope="module")
def beam_decoder():
    model = default_config().model
    model.update(vocab_size=VOCABULARY, compute_dtype="float32")
    model.caption_decoder.update(layers=2, heads=2, width=16, mlp_width=16)
    # Far from initialisation, so that captions follow their audio and differ in length.
    graphdef, params = nnx.split(CaptionDecoder(model, 8, rngs=nnx.Rngs(SEED)))
    return nnx.merge(graphdef, jax.tree.map(lambda p: p * 3.0 if p.ndim == 3 else p, params))


# Three clips in two rows, and an empty slot.
BEAM_MEMORY = jax.random.normal(jax.random.key(1), (2, 6, 8)) * 3.0
BEAM_SEGMENTS = jnp.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 0, 0]], jnp.int32)
CLIPS = ((0, 0), (0, 1), (1, 0))


def log_probabilities(beam_decoder, row, slot, captions):
    """Returns the log-probability of each token of captions [n, LONGEST] of one clip, by teacher forcing."""
    count = len(captions)
    tokens = jnp.concatenate([jnp.full((count, 1), BOS), captions], axis=1)
    positions = jnp.broadcast_to(jnp.arange(LONGEST + 1), tokens.shape)
    memory = jnp.broadcast_to(BEAM_MEMORY[row], (count, 6, 8))
    segments = jnp.broadcast_to(jnp.where(BEAM_SEGMENTS[row] == slot + 1, 1, 0), (count, 6))
    hidden = beam_decoder(tokens, jnp.ones_like(tokens), positions, memory, segments)
    gains = jax.nn.log_softmax(beam_decoder.logits(hidden), axis=-1)[:, :-1]
    return np.asarray(jnp.take_along_axis(gains, captions[..., None], axis=-1))[..., 0]


def best_of_all(beam_decoder, row, slot, power):
    """Scores every caption; returns the best one and its score."""
    captions = np.array(list(itertools.product(range(VOCABULARY), repeat=LONGEST)), np.int32)
    gains = log_probabilities(beam_decoder, row, slot, jnp.asarray(captions))
    scores = {}
    for caption, gain in zip(captions.tolist(), gains, strict=True):
        length = caption.index(EOS) + 1 if EOS in caption else LONGEST
        scores[tuple(caption[:length])] = float(gain[:length].sum()) / length**power
    best = max(scores, key=scores.__getitem__)
    return [*best, *[PAD] * (LONGEST - len(best))], scores[best]


@pytest.fixture(scope="module")
def widest(beam_decoder):
    return jax.jit(lambda power: beam_decoder.beam(BEAM_MEMORY, BEAM_SEGMENTS, 2, LONGEST, ALL_PREFIXES, power))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_a_beam_of_all_prefixes_finds_the_best_caption(beam_decoder, widest, power):
    tokens, scores = widest(power)
    greedy = jax.jit(lambda: beam_decoder.greedy(BEAM_MEMORY, BEAM_SEGMENTS, 2, LONGEST))()
    bests = []
    for row, slot in CLIPS:
        best, score = best_of_all(beam_decoder, row, slot, power)
        assert tokens[row, slot].tolist() == best
        assert float(scores[row, slot]) == pytest.approx(score, abs=1e-4)
        bests.append(best)
    assert tokens[1, 1].tolist() == [PAD] * LONGEST and float(scores[1, 1]) == 0.0
    assert len({tuple(best) for best in bests}) > 1 and any(EOS in best for best in bests)
    assert bests != [greedy[row, slot].tolist() for row, slot in CLIPS]  # greedy decoding misses one


def test_one_beam_is_greedy(beam_decoder):
    greedy = jax.jit(lambda: beam_decoder.greedy(BEAM_MEMORY, BEAM_SEGMENTS, 2, 8))()
    tokens, _ = jax.jit(lambda: beam_decoder.beam(BEAM_MEMORY, BEAM_SEGMENTS, 2, 8, 1))()
    assert np.array_equal(tokens, greedy)
    assert np.any(np.asarray(greedy) == EOS)


def test_scores_of_a_narrow_beam_are_those_of_its_captions(beam_decoder):
    tokens, scores = jax.jit(lambda: beam_decoder.beam(BEAM_MEMORY, BEAM_SEGMENTS, 2, LONGEST, 4))()
    for row, slot in CLIPS:
        (gains,) = log_probabilities(beam_decoder, row, slot, tokens[row, slot][None])
        caption = tokens[row, slot].tolist()
        length = caption.index(EOS) + 1 if EOS in caption else LONGEST
        assert float(scores[row, slot]) == pytest.approx(float(gains[:length].mean()), abs=1e-4)
