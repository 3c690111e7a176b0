"""The packed front end against librosa on each clip alone; SpecAugment: spans per clip and within limits."""

from pathlib import Path

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from ml_collections import ConfigDict

from slap_jax.models import frontend
from slap_jax.models.frontend import spec_augment

pytestmark = [pytest.mark.compile, pytest.mark.filterwarnings("ignore:n_fft=")]  # librosa warns of short clips
GOLDEN = Path(__file__).parents[1] / "golden" / "mel_filter_bank.npz"
COLUMN = 2_560

# Loud up to the last sample, so that a frame that leaks into its neighbour differs a lot. The second row is full.
LENGTHS = [[1, 400, 2_559, 2_560, 2_561, 7_000], [12_345, COLUMN * 4]]
COLUMNS = 9


def packed_clips(lengths: list[list[int]]) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, np.ndarray]]]:
    """Returns float32 rows, their segments, and (row, first column, clip) of each clip."""
    rng = np.random.default_rng(0)
    rows = np.zeros((len(lengths), COLUMNS * COLUMN), np.float32)
    segments = np.zeros((len(lengths), COLUMNS), np.int32)
    places = []
    for row, clips in enumerate(lengths):
        column = 0
        for slot, size in enumerate(clips):
            clip = np.round(rng.uniform(-0.9, 0.9, size) * 32_767).astype(np.float32) / 32_768
            rows[row, column * COLUMN : column * COLUMN + size] = clip
            places.append((row, column, clip))
            count = max(1, -(-size // COLUMN))
            segments[row, column : column + count] = slot + 1
            column += count
    return rows, segments, places


def librosa_log_mel(clip: np.ndarray, audio: ConfigDict) -> np.ndarray:
    mel = librosa.feature.melspectrogram(
        y=clip,
        sr=audio.sample_rate,
        n_fft=audio.n_fft,
        hop_length=audio.hop_length,
        win_length=audio.window_length,
        n_mels=audio.mels,
        fmin=audio.f_min,
        fmax=audio.f_max,
        center=True,
        pad_mode="constant",
    )
    return np.log(np.maximum(mel, audio.log_floor)).T


def difference_to_librosa(audio: ConfigDict, dtype: type) -> float:
    rows, segments, places = packed_clips(LENGTHS)
    waveform = rows if dtype is np.float32 else np.round(rows * 32_768).astype(np.int16)
    got = np.asarray(jax.jit(lambda w, s: frontend.log_mel(w, s, audio))(waveform, segments))
    assert got.dtype == np.float32
    got = got.reshape(len(rows), -1, audio.mels)
    worst = 0.0
    for row, column, clip in places:
        owned = max(1, -(-len(clip) // COLUMN)) * audio.frames_per_column
        expected = librosa_log_mel(clip, audio)[:owned]
        start = column * audio.frames_per_column
        worst = max(worst, float(np.abs(got[row, start : start + len(expected)] - expected).max()))
        silent = got[row, start + len(expected) + 2 : start + owned]
        np.testing.assert_allclose(silent, np.log(audio.log_floor), rtol=1e-6)
    return worst


@pytest.mark.parametrize("dft, dtype", [("rfft", np.float32), ("matmul", np.int16)])
def test_each_packed_clip_equals_librosa_alone(tiny_config, dft, dtype):
    tiny_config.audio.dft = dft
    assert difference_to_librosa(tiny_config.audio, dtype) < 1e-4


@pytest.mark.parametrize("n_fft, window", [(1_024, 640), (401, 401), (512, 150)])
def test_other_window_lengths_equal_librosa_too(tiny_config, n_fft, window):
    tiny_config.audio.update(n_fft=n_fft, window_length=window)
    assert difference_to_librosa(tiny_config.audio, np.float32) < 1e-4


def test_filter_bank_equals_transformers():
    golden = np.load(GOLDEN)
    for name in ("base", "wide"):
        rate, n_fft, mels, low, high = golden[f"{name}_settings"]
        bank = frontend.mel_filter_bank(int(rate), int(n_fft), int(mels), float(low), float(high))
        assert bank.dtype == np.float32
        np.testing.assert_allclose(bank, golden[name], atol=1e-7)


def test_non_finite_samples_do_not_reach_the_neighbours(tiny_config):
    rows, segments, _ = packed_clips(LENGTHS)
    poisoned = rows.copy()
    owned = np.repeat(segments, COLUMN, axis=1)
    poisoned[(owned == 3) & (np.arange(rows.shape[1]) % 3 == 0)] = np.nan
    poisoned[(owned == 5)] = np.inf
    got, clean = (frontend.log_mel(jnp.asarray(x), jnp.asarray(segments), tiny_config.audio) for x in (poisoned, rows))
    assert np.isfinite(got).all()
    others = ~np.isin(segments, (3, 5))
    np.testing.assert_array_equal(np.asarray(got)[others], np.asarray(clean)[others])
    assert np.abs(np.asarray(got) - np.asarray(clean))[~others].max() > 1.0


def test_patches_are_time_major_with_frequency_fastest(tiny_config):
    rows, columns, frames, mels = np.indices((2, 3, 16, 64))
    mel = jnp.asarray(rows * 10**6 + columns * 10**4 + frames * 100 + mels, jnp.float32)
    patches = np.asarray(frontend.patches(mel, tiny_config.audio)).reshape(2, 3, 4, 16, 16)
    row, column, patch, frame, band = np.indices(patches.shape)
    np.testing.assert_array_equal(patches, row * 10**6 + column * 10**4 + frame * 100 + patch * 16 + band)


def test_normalise_uses_the_configured_constants(tiny_config):
    tiny_config.audio.update(mean=-3.0, std=2.0)
    np.testing.assert_allclose(frontend.normalise(jnp.full((1, 1, 16, 64), 1.0), tiny_config.audio), 2.0)


SLOTS = 4
AUGMENTED_LENGTHS = [[20, 1, 9], [5, 25]]


def masked(pack, settings, seed=0, lengths=AUGMENTED_LENGTHS):
    segments, columns = pack(lengths, 32)
    mel = jnp.ones((2, 32, 16, 64))
    out = spec_augment(jax.random.split(jax.random.key(seed), 2), mel, segments, columns, SLOTS, settings)
    return np.asarray(out) == 0.0, segments


def runs(covered: np.ndarray) -> list[int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], covered.astype(int), [0]])))
    return list(edges[1::2] - edges[::2])


@pytest.mark.parametrize("seed", range(2))
def test_spans_cover_whole_frames_and_bins_within_the_limits(tiny_config, pack, seed):
    settings = tiny_config.spec_augment
    hidden, segments = masked(pack, settings, seed)
    assert not hidden[segments == 0].any()
    for row, clips in enumerate(AUGMENTED_LENGTHS):
        for slot, length in enumerate(clips):
            clip = hidden[row][segments[row] == slot + 1].reshape(length * 16, 64)
            frames, bins = clip.all(axis=1), clip.all(axis=0)
            np.testing.assert_array_equal(clip, frames[:, None] | bins[None])
            # Two spans that touch look like one.
            assert sum(runs(frames)) <= 2 * int(length * 16 * settings.time_fraction)
            assert sum(runs(bins)) <= 2 * settings.frequency_bins
            assert max(len(runs(frames)), len(runs(bins))) <= 2


def test_masks_differ_between_clips_rows_and_keys_and_repeat_for_a_key(tiny_config, pack):
    lengths = [[16, 16], [16, 16]]
    first, segments = masked(pack, tiny_config.spec_augment, 0, lengths)
    again, _ = masked(pack, tiny_config.spec_augment, 0, lengths)
    other, _ = masked(pack, tiny_config.spec_augment, 1, lengths)
    np.testing.assert_array_equal(first, again)
    clips = [x[row][segments[row] == slot] for x in (first, other) for row in (0, 1) for slot in (1, 2)]
    assert all((a != b).any() for i, a in enumerate(clips) for b in clips[:i])


def test_mask_of_a_clip_does_not_depend_on_its_neighbours(tiny_config, pack):
    first, segments = masked(pack, tiny_config.spec_augment, 0, [[20, 1, 9], [5, 25]])
    moved, moved_segments = masked(pack, tiny_config.spec_augment, 0, [[3, 4, 9], [5, 2]])
    np.testing.assert_array_equal(first[0][segments[0] == 3], moved[0][moved_segments[0] == 3])


def test_no_masks_leave_the_input(tiny_config, pack):
    for nothing in ({"time_masks": 0, "frequency_masks": 0}, {"time_fraction": 0.0, "frequency_bins": 0}):
        settings = tiny_config.copy_and_resolve_references().spec_augment
        settings.update(nothing)
        assert not masked(pack, settings)[0].any()
