import dataclasses

import numpy as np
import pytest

from slap_jax.batch import PackedBatch, batch_shapes
from slap_jax.data.packing import Clip, PackingError, clip_columns, pack_rows

COLUMNS, SLOTS, TEXT, SAMPLES = 12, 5, 24, 160


def random_clips(count, seed=0, kind=np.int16):
    generator = np.random.default_rng(seed)
    clips = []
    for key in range(count):
        samples = generator.integers(1, 6 * SAMPLES)
        tokens = generator.integers(1, 90, generator.integers(0, 9))
        waveform = generator.integers(-30_000, 30_000, samples).astype(np.int16)
        clips.append(Clip(waveform if kind == np.int16 else waveform / kind(32_768), tokens.tolist(), key + 1))
    return clips


def unpack(batch: PackedBatch, row: int, slot: int) -> tuple[np.ndarray, list[int], int]:
    """Reads one clip back, using only the segment ids."""
    columns = np.flatnonzero(batch.audio_segment_ids[row] == slot + 1)
    samples = np.asarray(batch.waveform[row]).reshape(-1, SAMPLES)[columns].reshape(-1)
    tokens = np.asarray(batch.text_tokens[row])[np.asarray(batch.text_segment_ids[row]) == slot + 1]
    assert np.array_equal(batch.audio_positions[row][columns], np.arange(len(columns)))
    positions = np.asarray(batch.text_positions[row])[np.asarray(batch.text_segment_ids[row]) == slot + 1]
    assert np.array_equal(positions, np.arange(len(tokens)))
    return samples, tokens.tolist(), int(batch.clip_key[row, slot])


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_every_clip_comes_back_whole_from_its_slot(kind):
    clips = random_clips(40, kind=kind)
    batch, placement = pack_rows(clips, COLUMNS, SLOTS, TEXT, SAMPLES)
    assert batch.waveform.dtype == kind
    for clip, (row, slot) in zip(clips, placement, strict=True):
        samples, tokens, key = unpack(batch, row, slot)
        n = len(clip.waveform)
        assert len(samples) == clip_columns(n, SAMPLES) * SAMPLES
        np.testing.assert_array_equal(samples[:n], clip.waveform)
        assert not samples[n:].any()
        assert tokens == clip.tokens and key == clip.key
    assert batch.clip_valid.sum() == len(clips)
    assert not batch.clip_key[~np.asarray(batch.clip_valid)].any()
    assert not np.asarray(batch.waveform).reshape(-1, COLUMNS, SAMPLES)[batch.audio_segment_ids == 0].any()


def test_fields_have_the_shapes_of_the_batch():
    batch, _ = pack_rows(random_clips(30), COLUMNS, SLOTS, TEXT, SAMPLES, rows=20)
    for field in dataclasses.fields(PackedBatch):
        expected = getattr(batch_shapes(20, COLUMNS, SLOTS, TEXT, SAMPLES), field.name)
        actual = getattr(batch, field.name)
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), field.name


def test_first_row_with_room_is_taken():
    sizes = [8, 8, 4, 3, 1]  # columns: the third fits row 0, the fourth row 1, the last row 1
    clips = [Clip(np.ones(size * SAMPLES, np.int16), [1], index) for index, size in enumerate(sizes)]
    _, placement = pack_rows(clips, COLUMNS, SLOTS, TEXT, SAMPLES)
    assert placement == [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2)]


def test_text_and_slots_bound_a_row_too():
    short = np.ones(1, np.int16)
    _, placement = pack_rows([Clip(short, [5] * 13, 0), Clip(short, [5] * 13, 1)], COLUMNS, SLOTS, TEXT, SAMPLES)
    assert placement == [(0, 0), (1, 0)]
    _, placement = pack_rows([Clip(short, [], key) for key in range(SLOTS + 1)], COLUMNS, SLOTS, TEXT, SAMPLES)
    assert placement[-2:] == [(0, SLOTS - 1), (1, 0)]


@pytest.mark.parametrize(("samples", "columns"), [(0, 1), (1, 1), (SAMPLES, 1), (SAMPLES + 1, 2), (12 * SAMPLES, 12)])
def test_columns_of_a_clip(samples, columns):
    assert clip_columns(samples, SAMPLES) == columns


def test_a_clip_that_fits_no_row_is_an_error():
    with pytest.raises(PackingError, match="clip 1 takes 13 columns"):
        pack_rows([*random_clips(1), Clip(np.ones(12 * SAMPLES + 1, np.int16), [], 0)], COLUMNS, SLOTS, TEXT, SAMPLES)
    with pytest.raises(PackingError, match="25 text tokens"):
        pack_rows([Clip(np.ones(1, np.int16), [1] * 25, 0)], COLUMNS, SLOTS, TEXT, SAMPLES)
    with pytest.raises(PackingError, match="only 1 are allowed"):
        pack_rows(random_clips(40), COLUMNS, SLOTS, TEXT, SAMPLES, rows=1)


def test_no_clips_give_empty_rows():
    batch, placement = pack_rows([], COLUMNS, SLOTS, TEXT, SAMPLES, rows=2)
    assert placement == [] and not batch.clip_valid.any() and batch.waveform.shape == (2, COLUMNS * SAMPLES)
