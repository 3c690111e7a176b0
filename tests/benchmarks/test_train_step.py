import statistics

import pytest

from benchmarks.mixed_clips import COLUMN_SAMPLES, by_length, in_order, mixed_clips
from benchmarks.train_step import batches_of, benchmark_config, measure, our_side, summary

pytestmark = pytest.mark.compile

CLIPS = mixed_clips(2_000, vocabulary=40)


def tiny_config():
    config = benchmark_config(clips_per_step=8)
    config.data.update(packing_bins=2, columns=200)
    config.model.update(embed_dim=8, vocab_size=40)
    config.model.audio_encoder.update(layers=3, heads=1, width=8, mlp_width=8)
    config.model.text_encoder.update(layers=1, heads=1, width=8, mlp_width=8)
    return config


def test_mix_is_seeded_bounded_and_six_seconds_on_average():
    seconds = [clip.seconds for clip in CLIPS]
    assert seconds == [clip.seconds for clip in mixed_clips(2_000, vocabulary=40)]
    assert (min(seconds) >= 0.5, max(seconds)) == (True, 30.0)
    assert statistics.mean(seconds) == pytest.approx(6.0, rel=0.03)
    assert all(4 <= len(clip.tokens) <= 64 and max(clip.tokens) < 40 for clip in CLIPS)


def padding(batches):
    """Returns the number of padded columns per column of audio."""
    padded = sum(len(clips) * max(clip.columns for clip in clips) for clips in batches)
    return padded / sum(clip.columns for clips in batches for clip in clips)


def test_length_buckets_cover_all_lengths_and_more_buckets_pad_less():
    size = 32
    everything = by_length(CLIPS, size, buckets=8, count=8)
    assert sorted(clip.seconds for clips in everything for clip in clips) == sorted(
        clip.seconds for clip in CLIPS[: 8 * size]
    )
    some = by_length(CLIPS, size, buckets=32, count=8)
    ends = [clips[-1].seconds for clips in some]
    assert len(some) == 8 and ends == sorted(ends)
    assert 1.0 < padding(some) < padding(everything) < padding(in_order(CLIPS, size)) / 2


def test_packed_rows_are_full_and_hold_about_as_many_clips_as_a_padded_batch():
    config = benchmark_config(clips_per_step=32)
    rows = batches_of("slap_jax_packed", config, 32, 8)
    columns = [sum(clip.columns for clip in clips) for clips in rows]
    assert len(rows) == 4 * config.data.rows and max(columns) <= config.data.columns
    assert statistics.mean(columns) > 0.97 * config.data.columns
    assert statistics.mean(map(len, rows)) * config.data.rows == pytest.approx(32, rel=0.15)


@pytest.mark.parametrize("side", ["slap_jax_packed", "slap_jax_padded"])
@pytest.mark.parametrize("task", ["train", "embed"])
def test_our_sides_compute_every_batch_and_count_their_real_audio(side, task):
    calls = list(our_side(side, task, tiny_config(), clips_per_step=8, count=4))
    result = measure(calls, warm_up=[0])
    groups = batches_of(side, tiny_config(), 8, 4)
    samples = [len(clip.waveform) for clips in groups for clip in clips]
    assert result["audio_s"] == pytest.approx(sum(samples) / 16_000)
    assert result["cpu_s"] > 0 and result["wall_s"] > 0
    assert sum(samples) < sum(-(-n // COLUMN_SAMPLES) * COLUMN_SAMPLES for n in samples)  # ends of columns do not count


def test_summary_takes_medians_and_compares_our_packed_rows_with_each_side():
    def run(ours, theirs):
        return {
            ("slap_jax_packed", "train"): {"audio_s": ours, "cpu_s": 1.0, "wall_s": 2.0},
            ("torch_padded", "train"): {"audio_s": theirs, "cpu_s": 2.0, "wall_s": 2.0},
        }

    result = summary([run(30.0, 20.0), run(60.0, 20.0), run(33.0, 22.0)])["train"]
    assert result["audio_s_per_cpu_s"] == {"slap_jax_packed": 33.0, "torch_padded": 10.0}
    assert result["audio_s_per_wall_s"]["slap_jax_packed"] == 16.5
    assert result["packed_rows_to"] == {"torch_padded": 3.3}
