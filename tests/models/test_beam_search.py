"""Beam search against a search through every caption, against greedy decoding, and slot by slot."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slap_jax.config.defaults import default_config
from slap_jax.models.caption_decoder import CaptionDecoder

PAD, BOS, EOS = 0, 1, 2
VOCABULARY, LONGEST = 5, 3
SEED = 2
EVERY = VOCABULARY**LONGEST  # beginnings that there can be


@pytest.fixture(scope="module")
def decoder():
    model = default_config().model
    model.update(vocab_size=VOCABULARY, compute_dtype="float32")
    model.caption_decoder.update(layers=2, heads=2, width=16, mlp_width=16)
    # Far from initialisation, so that captions follow their audio and differ in length.
    graphdef, params = nnx.split(CaptionDecoder(model, 8, rngs=nnx.Rngs(SEED)))
    return nnx.merge(graphdef, jax.tree.map(lambda p: p * 3.0 if p.ndim == 3 else p, params))


# Three clips in two rows, and an empty slot.
MEMORY = jax.random.normal(jax.random.key(1), (2, 6, 8)) * 3.0
SEGMENTS = jnp.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 0, 0]], jnp.int32)
CLIPS = ((0, 0), (0, 1), (1, 0))


def log_probabilities(decoder, row, slot, captions):
    """Of each token of captions [n, LONGEST] of one clip, by teacher forcing."""
    count = len(captions)
    tokens = jnp.concatenate([jnp.full((count, 1), BOS), captions], axis=1)
    positions = jnp.broadcast_to(jnp.arange(LONGEST + 1), tokens.shape)
    memory = jnp.broadcast_to(MEMORY[row], (count, 6, 8))
    segments = jnp.broadcast_to(jnp.where(SEGMENTS[row] == slot + 1, 1, 0), (count, 6))
    hidden = decoder(tokens, jnp.ones_like(tokens), positions, memory, segments)
    gains = jax.nn.log_softmax(decoder.logits(hidden), axis=-1)[:, :-1]
    return np.asarray(jnp.take_along_axis(gains, captions[..., None], axis=-1))[..., 0]


def best_of_all(decoder, row, slot, power):
    """The best caption and its score, from scores of every one."""
    every = np.array(list(itertools.product(range(VOCABULARY), repeat=LONGEST)), np.int32)
    gains = log_probabilities(decoder, row, slot, jnp.asarray(every))
    found = {}
    for caption, gain in zip(every.tolist(), gains, strict=True):
        length = caption.index(EOS) + 1 if EOS in caption else LONGEST
        found[tuple(caption[:length])] = float(gain[:length].sum()) / length**power
    best = max(found, key=found.__getitem__)
    return [*best, *[PAD] * (LONGEST - len(best))], found[best]


@pytest.fixture(scope="module")
def widest(decoder):
    return jax.jit(lambda power: decoder.beam(MEMORY, SEGMENTS, 2, LONGEST, EVERY, power))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_a_beam_of_all_beginnings_finds_the_best_caption(decoder, widest, power):
    tokens, scores = widest(power)
    greedy = jax.jit(lambda: decoder.greedy(MEMORY, SEGMENTS, 2, LONGEST))()
    bests = []
    for row, slot in CLIPS:
        best, score = best_of_all(decoder, row, slot, power)
        assert tokens[row, slot].tolist() == best
        assert float(scores[row, slot]) == pytest.approx(score, abs=1e-4)
        bests.append(best)
    assert tokens[1, 1].tolist() == [PAD] * LONGEST and float(scores[1, 1]) == 0.0
    assert len({tuple(best) for best in bests}) > 1 and any(EOS in best for best in bests)
    assert bests != [greedy[row, slot].tolist() for row, slot in CLIPS]  # greedy decoding misses one


def test_one_beam_is_greedy(decoder):
    greedy = jax.jit(lambda: decoder.greedy(MEMORY, SEGMENTS, 2, 8))()
    tokens, _ = jax.jit(lambda: decoder.beam(MEMORY, SEGMENTS, 2, 8, 1))()
    assert np.array_equal(tokens, greedy)
    assert np.any(np.asarray(greedy) == EOS)


def test_scores_of_a_narrow_beam_are_those_of_its_captions(decoder):
    tokens, scores = jax.jit(lambda: decoder.beam(MEMORY, SEGMENTS, 2, LONGEST, 4))()
    for row, slot in CLIPS:
        (gains,) = log_probabilities(decoder, row, slot, tokens[row, slot][None])
        caption = tokens[row, slot].tolist()
        length = caption.index(EOS) + 1 if EOS in caption else LONGEST
        assert float(scores[row, slot]) == pytest.approx(float(gains[:length].mean()), abs=1e-4)
