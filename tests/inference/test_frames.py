"""Dense features and embeddings of every moment: against the tokens themselves, alone or in a list, over time."""

import jax
import numpy as np
import pytest

from slap_jax.inference.embedder import Embedder, one_clip_rows
from tests.inference.tiny import noise, tiny_config, tiny_params

CONFIG = tiny_config()
PARAMS = tiny_params(CONFIG)
CLIPS = [noise(0, 1.0), noise(1, 0.16), noise(2, 2.5)]  # 7, 1 and 16 columns


@pytest.fixture(scope="module")
def embedder():
    return Embedder(CONFIG)


@pytest.fixture(scope="module")
def tokens(embedder):
    """Dense features [7 columns, 4 patches, 32] of the first clip in a row of its own length."""

    @jax.jit
    def dense(params, waveform, samples):
        model = embedder.model(params)
        segments, columns = one_clip_rows(samples, 7, 2_560)
        return model.audio_tokens(model.audio_patches(waveform, segments), segments, columns)

    waveform = np.zeros((1, 7 * 2_560), np.float32)
    waveform[0, :16_000] = CLIPS[0]
    return np.asarray(dense(PARAMS, waveform, np.array([16_000], np.int32)))[0].reshape(7, 4, 32)


def test_frames_are_the_mean_over_a_columns_patches(embedder, tokens):
    frames = embedder.frames(PARAMS, CLIPS)
    assert [part.shape for part in frames] == [(7, 32), (1, 32), (16, 32)]
    assert all(part.dtype == np.float32 for part in frames)
    assert np.allclose(frames[0], tokens.mean(axis=1), atol=1e-5)
    assert np.array_equal(embedder.frames(PARAMS, CLIPS[:1])[0], frames[0])


def test_frame_embeddings_pool_a_columns_own_patches(embedder, tokens):
    """A column's embedding is that of its four tokens, pooled and projected as those of a clip."""
    found = embedder.frame_embeddings(PARAMS, CLIPS)
    assert [part.shape for part in found] == [(7, 16), (1, 16), (16, 16)]

    @jax.jit
    def pooled(params, tokens):
        return embedder.model(params).audio_embeddings(tokens, np.ones((7, 1), np.int32), 1)[:, 0]

    assert np.allclose(found[0], pooled(PARAMS, tokens), atol=1e-5)
    assert np.allclose(np.linalg.norm(np.concatenate(found), axis=1), 1.0, atol=1e-5)
    # The clip of one column has nothing else to pool.
    assert np.allclose(found[1][0], embedder.audio(PARAMS, [CLIPS[1]])[0], atol=1e-5)


def test_nothing_in_nothing_out(embedder):
    assert embedder.frames(PARAMS, []) == [] and embedder.frame_embeddings(PARAMS, []) == []
