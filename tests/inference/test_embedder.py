"""The embedder: the same bits alone or in a list, any duration, few programs, equal to the packed path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.config.defaults import samples_per_column
from slap_jax.data.packing import Clip, pack_rows
from slap_jax.inference.bucketing import bucket_size
from slap_jax.inference.embedder import SMALLEST_COLUMNS, Embedder, one_clip_rows
from slap_jax.parallel.sharding import create_mesh
from tests.inference.tiny import CountingEmbedder, noise, shared_params, tiny_config, tiny_params

pytestmark = pytest.mark.compile

CONFIG = tiny_config()
PARAMS = shared_params()["model"]
SECONDS = (0.3, 3.0, 0.00001, 1.1, 2.7, 0.5, 0.16, 2.05)  # columns 2, 19, 1, 7, 17, 4, 1, 13
CLIPS = [noise(index, seconds) for index, seconds in enumerate(SECONDS)]
CAPTIONS = [[1, *np.random.default_rng(n).integers(4, 64, size=n), 2] for n in (0, 1, 5, 13, 29, 30, 31, 38)]


@pytest.fixture(scope="module")
def audio(embedder):
    return embedder.audio(PARAMS, CLIPS)


def test_unit_vectors(embedder, audio):
    text = embedder.text(PARAMS, CAPTIONS)
    for vectors, count in ((audio, len(CLIPS)), (text, len(CAPTIONS))):
        assert vectors.dtype == np.float32 and vectors.shape == (count, 16)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
        assert len(np.unique(vectors.round(6), axis=0)) == count


def test_alone_in_a_list_and_in_any_order_bit_identical(embedder, audio):
    assert np.array_equal(embedder.audio(PARAMS, CLIPS[::-1])[::-1], audio)
    for index, clip in enumerate(CLIPS):
        assert np.array_equal(embedder.audio(PARAMS, [clip])[0], audio[index])
    text = embedder.text(PARAMS, CAPTIONS)
    assert np.array_equal(embedder.text(PARAMS, CAPTIONS[::-1])[::-1], text)
    for index, caption in enumerate(CAPTIONS):
        assert np.array_equal(embedder.text(PARAMS, [caption])[0], text[index])


def test_a_second_embedder_agrees_bit_for_bit(audio):
    assert np.array_equal(Embedder(CONFIG).audio(PARAMS, CLIPS[:2]), audio[:2])


def test_bucket_padding_does_not_matter(embedder, audio):
    """A clip in its own bucket equals the clip in a row made much longer."""
    program = jax.jit(embedder._audio_rows)
    per_column = samples_per_column(CONFIG.audio)
    row = np.zeros((1, 28 * per_column), np.float32)
    row[0, : len(CLIPS[3])] = CLIPS[3]
    assert np.allclose(program(PARAMS, row, np.array([len(CLIPS[3])], np.int32))[0], audio[3], atol=1e-5)


def test_packed_path_agrees(embedder, audio):
    clips = [Clip(clip, CAPTIONS[index], index) for index, clip in enumerate(CLIPS)]
    batch, placement = pack_rows(clips, 28, 6, 64, samples_per_column(CONFIG.audio))
    assert len({row for row, _ in placement}) < len(CLIPS)

    @jax.jit
    def embed(params, batch):
        model = embedder.model(params)
        patches = model.audio_patches(batch.waveform, batch.audio_segment_ids)
        tokens = model.audio_tokens(patches, batch.audio_segment_ids, batch.audio_positions)
        hidden = model.text_tokens(batch.text_tokens, batch.text_segment_ids, batch.text_positions)
        return (
            model.audio_embeddings(tokens, batch.audio_segment_ids, 6),
            model.text_embeddings(hidden, batch.text_segment_ids, 6),
        )

    packed_audio, packed_text = embed(PARAMS, batch)
    text = embedder.text(PARAMS, CAPTIONS)
    for index, (row, slot) in enumerate(placement):
        assert np.allclose(packed_audio[row, slot], audio[index], atol=1e-5)
        assert np.allclose(packed_text[row, slot], text[index], atol=1e-5)


def test_batched_rows_agree_with_single_rows(audio):
    batched = CountingEmbedder(CONFIG, tokens_per_call=200)
    short = [0, 2, 5, 6]
    assert np.allclose(batched.audio(PARAMS, [CLIPS[index] for index in short]), audio[short], atol=1e-5)
    assert batched.bucketing.rows_per_call(16 * 4) == 3 and batched.traces == 1


def test_int16_and_float_agree(embedder):
    integers = np.round(CLIPS[1] * 32_768).astype(np.int16)
    floats = (integers / 32_768).astype(np.float32)
    assert np.array_equal(embedder.audio(PARAMS, [integers]), embedder.audio(PARAMS, [floats]))


def test_on_a_mesh(audio):
    config = CONFIG.copy_and_resolve_references()
    mesh = create_mesh(config.parallel)
    assert mesh.size == 8
    params = jax.device_put(PARAMS, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    embedder = CountingEmbedder(CONFIG, mesh=mesh)
    short = [0, 2, 5, 6]
    vectors = embedder.audio(params, [CLIPS[index] for index in short])
    assert np.allclose(vectors, audio[short], atol=1e-5)
    assert np.array_equal(embedder.audio(params, [CLIPS[5]])[0], vectors[2])
    assert embedder.traces == 1


def test_programs_are_bounded_by_buckets_and_do_not_depend_on_parameters():
    embedder = CountingEmbedder(CONFIG)
    clips = [noise(index, seconds) for index, seconds in enumerate(np.linspace(0.1, 3.7, 12))]
    first = embedder.audio(PARAMS, clips)
    columns = {bucket_size(-(-len(clip) // samples_per_column(CONFIG.audio)), SMALLEST_COLUMNS) for clip in clips}
    assert embedder.traces == len(columns) < 4
    other = embedder.audio(tiny_params(CONFIG, seed=1), clips)
    assert embedder.traces == len(columns)
    assert np.abs(first - other).max() > 0.1


def test_a_row_far_longer_than_those_of_training(embedder):
    long = embedder.audio(PARAMS, [np.tile(noise(0, 10.0), 10)])
    assert np.isfinite(long).all() and np.linalg.norm(long) == pytest.approx(1.0, abs=1e-5)


def test_empty_lists(embedder):
    assert embedder.audio(PARAMS, []).shape == (0, 16)
    assert embedder.text(PARAMS, []).shape == (0, 16)
    assert embedder.frames(PARAMS, []) == [] and embedder.frame_embeddings(PARAMS, []) == []


def test_one_clip_rows_equal_packed_rows():
    segments, columns = one_clip_rows(jnp.array([2_560, 2_561, 0]), 3, 2_560)
    assert np.asarray(segments).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert np.asarray(columns).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


FRAME_CLIPS = [noise(0, 1.0), noise(1, 0.16), noise(2, 2.5)]  # 7, 1 and 16 columns


@pytest.fixture(scope="module")
def tokens(embedder):
    """Dense features [7 columns, 4 patches, 32] of the first clip in a row of exactly its length."""

    @jax.jit
    def dense(params, waveform, samples):
        model = embedder.model(params)
        segments, columns = one_clip_rows(samples, 7, 2_560)
        return model.audio_tokens(model.audio_patches(waveform, segments), segments, columns)

    waveform = np.zeros((1, 7 * 2_560), np.float32)
    waveform[0, :16_000] = FRAME_CLIPS[0]
    return np.asarray(dense(PARAMS, waveform, np.array([16_000], np.int32)))[0].reshape(7, 4, 32)


def test_frames_are_the_mean_over_a_columns_patches(embedder, tokens):
    frames = embedder.frames(PARAMS, FRAME_CLIPS)
    assert [part.shape for part in frames] == [(7, 32), (1, 32), (16, 32)]
    assert all(part.dtype == np.float32 for part in frames)
    assert np.allclose(frames[0], tokens.mean(axis=1), atol=1e-5)
    assert np.array_equal(embedder.frames(PARAMS, FRAME_CLIPS[:1])[0], frames[0])


def test_frame_embeddings_pool_a_columns_own_patches(embedder, tokens):
    """A column's embedding is that of its four tokens, pooled and projected as those of a clip."""
    columns = embedder.frame_embeddings(PARAMS, FRAME_CLIPS)
    assert [part.shape for part in columns] == [(7, 16), (1, 16), (16, 16)]

    @jax.jit
    def pooled(params, tokens):
        return embedder.model(params).audio_embeddings(tokens, np.ones((7, 1), np.int32), 1)[:, 0]

    assert np.allclose(columns[0], pooled(PARAMS, tokens), atol=1e-5)
    assert np.allclose(np.linalg.norm(np.concatenate(columns), axis=1), 1.0, atol=1e-5)
    # The clip of one column has nothing else to pool.
    assert np.allclose(columns[1][0], embedder.audio(PARAMS, [FRAME_CLIPS[1]])[0], atol=1e-5)
