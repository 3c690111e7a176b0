"""The same input gives the same bits, alone or in company; any duration; few programs; equal to the packed path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.config.defaults import samples_per_column
from slap_jax.data.packing import Clip, pack_rows
from slap_jax.inference.bucketing import Rows, bucket_size
from slap_jax.inference.embedder import SMALLEST_COLUMNS, Embedder, one_clip_rows
from slap_jax.parallel.sharding import create_mesh
from tests.inference.tiny import noise, tiny_config, tiny_params

CONFIG = tiny_config()
PARAMS = tiny_params(CONFIG)
SECONDS = (0.3, 3.0, 0.00001, 1.1, 2.7, 0.5, 0.16, 2.05)  # columns 2, 19, 1, 7, 17, 4, 1, 13
CLIPS = [noise(index, seconds) for index, seconds in enumerate(SECONDS)]
CAPTIONS = [[1, *np.random.default_rng(n).integers(4, 64, size=n), 2] for n in (0, 1, 5, 13, 29, 30, 31, 38)]


@pytest.fixture(scope="module")
def embedder():
    return Embedder(CONFIG)


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
    batched = Embedder(CONFIG, tokens_per_call=200)
    short = [0, 2, 5, 6]
    assert np.allclose(batched.audio(PARAMS, [CLIPS[index] for index in short]), audio[short], atol=1e-5)
    assert batched.rows.count(16 * 4) == 3 and batched.programs == 1


def test_int16_and_float_agree(embedder):
    integers = np.round(CLIPS[1] * 32_768).astype(np.int16)
    floats = (integers / 32_768).astype(np.float32)
    assert np.array_equal(embedder.audio(PARAMS, [integers]), embedder.audio(PARAMS, [floats]))


def test_on_a_mesh(audio):
    config = CONFIG.copy_and_resolve_references()
    mesh = create_mesh(config.parallel)
    assert mesh.size == 8
    params = jax.device_put(PARAMS, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    embedder = Embedder(CONFIG, mesh=mesh)
    short = [0, 2, 5, 6]
    vectors = embedder.audio(params, [CLIPS[index] for index in short])
    assert np.allclose(vectors, audio[short], atol=1e-5)
    assert np.array_equal(embedder.audio(params, [CLIPS[5]])[0], vectors[2])
    assert embedder.programs == 1


def test_programs_are_bounded_by_buckets_and_do_not_depend_on_parameters():
    embedder = Embedder(CONFIG)
    clips = [noise(index, seconds) for index, seconds in enumerate(np.linspace(0.1, 3.7, 12))]
    first = embedder.audio(PARAMS, clips)
    columns = {bucket_size(-(-len(clip) // samples_per_column(CONFIG.audio)), SMALLEST_COLUMNS) for clip in clips}
    assert embedder.programs == len(columns) < 4
    other = embedder.audio(tiny_params(CONFIG, seed=1), clips)
    assert embedder.programs == len(columns)
    assert np.abs(first - other).max() > 0.1


def test_ten_minutes(embedder):
    long = embedder.audio(PARAMS, [np.tile(noise(0, 10.0), 60)])
    assert np.isfinite(long).all() and np.linalg.norm(long) == pytest.approx(1.0, abs=1e-5)


def test_empty_lists(embedder):
    assert embedder.audio(PARAMS, []).shape == (0, 16)
    assert embedder.text(PARAMS, []).shape == (0, 16)


def test_buckets_waste_at_most_a_quarter():
    for length in range(1, 5_000):
        bucket = bucket_size(length)
        assert length <= bucket <= length * 1.25
    assert len({bucket_size(length) for length in range(1, 5_000)}) < 45
    assert bucket_size(3, smallest=16) == 16


def test_row_counts():
    assert Rows(tokens_per_call=1_000).count(300) == 3
    assert Rows(tokens_per_call=1_000).count(3_000) == 1
    assert Rows().count(16) == 1  # on a CPU


def test_one_clip_rows_are_what_packing_writes():
    segments, columns = one_clip_rows(jnp.array([2_560, 2_561, 0]), 3, 2_560)
    assert np.asarray(segments).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert np.asarray(columns).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
