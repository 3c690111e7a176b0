import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.config.defaults import default_config, source
from slap_jax.data.audio import to_int16
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.inspect.measure import StatisticsError, is_clipped, measure_mixture
from slap_jax.data.log_mel import clip_log_mel
from slap_jax.data.packing import Clip, pack_rows
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import RecordsError, make_record, open_split
from slap_jax.models import frontend
from tests.data.tiny_data import tiny_config, tiny_dataset, tone


def split_config(path, split="train", **data):
    config = default_config()
    config.data.train.tiny = source(str(path), split)
    config.data.update(columns=32, slots=8, text_tokens=256, packing_bins=4)  # small rows: a quick forecast
    config.data.update(data)
    return config


def frames_of(records, audio):
    # In float64: a sum over many rows in float32 loses digits.
    return np.concatenate([clip_log_mel(record.waveform(), audio) for record in records]).astype(np.float64)


def test_mean_and_deviation_are_those_of_all_frames(dataset):
    config = split_config(dataset)
    statistics = measure_mixture(config)
    frames = frames_of(open_split(dataset, "train"), config.audio)
    assert statistics.mean == pytest.approx(frames.mean(), abs=1e-4)
    assert statistics.std == pytest.approx(frames.std(), abs=1e-4)
    np.testing.assert_allclose(statistics.band_mean, frames.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(statistics.band_std, frames.std(axis=0), atol=1e-4)


def test_mean_and_deviation_of_a_mixture_are_those_of_its_stream(dataset, tmp_path):
    other = tmp_path / "other"
    loud = [make_record(f"{i}", tone(0.5 + 0.1 * i, 900.0), ["a tone"]) for i in range(5)]
    prepare_records({"train": (5, loud)}, other, {"loud": 5}, log=lambda line: None)
    config = split_config(dataset)
    config.data.train.loud = source(str(other), "train", weight=3.0)
    statistics = measure_mixture(config)
    assert statistics.fractions == {"tiny": 0.25, "loud": 0.75}
    parts = [frames_of(open_split(path, "train"), config.audio) for path in (dataset, other)]
    # The weight of a frame: 24 clips make up 1/4 of the draws, 5 clips make up 3/4.
    weights = np.concatenate([np.full(len(parts[0]), 0.25 / 24), np.full(len(parts[1]), 0.75 / 5)])
    frames = np.concatenate(parts).astype(np.float64)
    mean = np.average(frames.mean(axis=1), weights=weights)
    assert statistics.mean == pytest.approx(mean, abs=1e-4)
    assert statistics.std == pytest.approx(
        np.sqrt(np.average(np.square(frames - mean).mean(axis=1), weights=weights)), abs=1e-4
    )


def test_temperature_changes_the_fractions(dataset, tmp_path):
    config = split_config(dataset)
    config.data.train.small = source(str(tiny_dataset(tmp_path / "small", 6, 2)), "train")
    config.data.temperature = 1.0
    assert measure_mixture(config).fractions == {"tiny": 0.8, "small": 0.2}


def test_facts_about_every_clip(dataset, tokenizer):
    statistics = measure_mixture(split_config(dataset, "train+test"), tokenizer)
    measured, records = statistics.sources["tiny"].measured, list(open_split(dataset, "train+test"))
    assert statistics.sources["tiny"].clips == len(measured) == 30
    for clip, record in zip(measured, records, strict=True):
        waveform = record.waveform()
        assert clip.record == dataclasses.replace(record, audio=b"")
        assert clip.samples == len(waveform)
        assert clip.caption_tokens == tuple(len(tokenizer.encode(text, 1_000)) for text in record.captions)
        assert clip.tokens in clip.caption_tokens
        assert clip.loudness_dbfs == pytest.approx(
            20 * np.log10(np.sqrt(np.mean(waveform.astype(float) ** 2)) / 32_768)
        )
    assert statistics.sources["tiny"].longest == pytest.approx(max(record.duration_s for record in records))


def test_durations_cover_every_clip_although_few_are_measured(dataset):
    statistics = measure_mixture(split_config(dataset), clips=3).sources["tiny"]
    assert len(statistics.measured) == 3 and statistics.timed == statistics.clips == 24
    assert statistics.seconds == pytest.approx(sum(record.duration_s for record in open_split(dataset, "train")))
    assert statistics.distributions.log_seconds.histogram()[1].sum() == 24
    assert statistics.distributions.loudness.histogram()[1].sum() == 3


def test_long_clips_and_captions_are_cut_as_in_training(dataset, tokenizer):
    statistics = measure_mixture(split_config(dataset, max_seconds=0.5, max_caption_tokens=6), tokenizer)
    for clip in statistics.sources["tiny"].measured:
        assert clip.samples == min(8_000, round(clip.record.duration_s * 16_000))
        assert clip.frames == 16 * -(-clip.samples // 2_560)
        assert clip.tokens == min(6, clip.tokens) and max(clip.caption_tokens) > 6
    assert statistics.max_caption_tokens == 6


def test_sample_is_seeded(dataset):
    def chosen(seed):
        return [
            clip.record.id
            for clip in measure_mixture(split_config(dataset), clips=5, seed=seed).sources["tiny"].measured
        ]

    assert chosen(0) == chosen(0) != chosen(1) and len(set(chosen(0))) == 5


@pytest.mark.parametrize("lead_in_seconds", [0.0, 1.5])
def test_the_forecast_matches_the_packing_of_training(dataset, tokenizer, lead_in_seconds):
    config = tiny_config(dataset, tokenizer)
    config.data.augment.lead_in_seconds = lead_in_seconds
    packing = measure_mixture(config, tokenizer).packing
    train = TrainBatches(config, tokenizer)
    batches = [next(train) for _ in range(40)]
    train.close()
    assert packing.fill == pytest.approx(np.mean([batch.audio_segment_ids > 0 for batch in batches]), abs=0.02)
    assert packing.text_fill == pytest.approx(np.mean([batch.text_segment_ids > 0 for batch in batches]), abs=0.02)
    assert packing.slot_fill == pytest.approx(np.mean([batch.clip_valid for batch in batches]), abs=0.02)
    assert packing.clips_per_row == pytest.approx(np.mean([batch.clip_valid.sum(axis=1) for batch in batches]), abs=0.1)


def test_labels_stand_in_for_captions_and_clips_with_neither_are_left_out(tmp_path, tokenizer):
    records = [
        make_record("labelled", tone(0.2), [], labels=("label=sea waves",)),
        make_record("bare", tone(0.3), []),
        make_record("captioned", tone(0.4), ["a low tone"]),
    ]
    prepare_records({"train": (3, records)}, tmp_path, {"labels": 1}, log=lambda line: None)
    statistics = measure_mixture(split_config(tmp_path), tokenizer)
    result = {clip.record.id: clip for clip in statistics.sources["tiny"].measured}
    assert {name: clip.has_caption for name, clip in result.items()} == {
        "labelled": True,
        "bare": False,
        "captioned": True,
    }
    assert result["labelled"].tokens > 2 and result["labelled"].caption_tokens == () and result["bare"].tokens == 0
    with pytest.raises(StatisticsError, match="caption"):
        bare = tmp_path / "bare"
        prepare_records({"train": (1, records[1:2])}, bare, {"labels": 2}, log=lambda line: None)
        measure_mixture(split_config(bare), tokenizer)


@pytest.mark.parametrize(
    ("samples", "clipped"),
    [
        ([0, 32_767, 32_767, 32_767, 0], True),
        ([-32_768, -32_768, -32_768], True),
        ([32_767, 32_767, 5, 32_767], False),
        ([32_767, 32_767, -32_768], False),
        ([32_766] * 9, False),
        ([7], False),
    ],
)
def test_clipping_is_a_run_at_full_scale(samples, clipped):
    assert is_clipped(np.array(samples, np.int16)) is clipped


def test_data_without_clips_is_an_error(dataset, tmp_path):
    with pytest.raises(RecordsError):
        measure_mixture(split_config(tmp_path))
    with pytest.raises(StatisticsError, match="0 sources"):
        measure_mixture(default_config())
    with pytest.raises(StatisticsError, match="0 clips"):
        measure_mixture(split_config(dataset), clips=0)


@pytest.mark.compile
@pytest.mark.parametrize("samples", [1, 2_560, 2_561, 16_000])
def test_log_mel_equals_that_of_the_model(samples):
    audio = default_config().audio
    waveform = to_int16(tone(1.0)[:samples])
    batch, _ = pack_rows([Clip(waveform, [], 0), Clip(np.full(3_000, 9_000, np.int16), [], 1)], 16, 2, 1, 2_560)
    expected = np.asarray(frontend.log_mel(jnp.asarray(batch.waveform), jnp.asarray(batch.audio_segment_ids), audio))
    host = clip_log_mel(waveform, audio)
    np.testing.assert_allclose(host, expected[0, : -(-samples // 2_560)].reshape(len(host), -1), atol=1e-4)
