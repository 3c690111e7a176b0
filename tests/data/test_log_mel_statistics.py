import json

import numpy as np
import pytest

from slap_jax.config.defaults import default_config
from slap_jax.data.log_mel import clip_log_mel
from slap_jax.data.log_mel_statistics import read_log_mel_statistics
from slap_jax.data.preparation import log_mel_sample
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import RecordsError, make_record, open_split
from tests.data.tiny_data import tiny_dataset, tone


def summary_file(output):
    return next(output.glob("*/*/slap_records.json"))


def noises(count, split="train"):
    generator = np.random.default_rng(0)
    levels = 10 ** generator.uniform(-3, -0.5, count)
    waveforms = [(level * generator.standard_normal(3_000)).astype(np.float32) for level in levels]
    return [make_record(f"{split}-{number}", waveform, ["noise"]) for number, waveform in enumerate(waveforms)]


def test_prepared_data_know_the_statistics_of_their_training_split(tmp_path):
    output = tiny_dataset(tmp_path / "tiny", count=9)
    audio = default_config().audio
    values = np.concatenate([clip_log_mel(record.waveform(), audio) for record in open_split(output, "train")])
    expected = pytest.approx((values.mean(), values.std()), abs=1e-3)
    assert read_log_mel_statistics(output) == expected
    assert read_log_mel_statistics(str(summary_file(output).parent), audio) == expected
    assert json.loads(summary_file(output).read_text())["log_mel"]["clips"] == 9


def test_data_without_a_training_split_are_measured_on_their_first_split(tmp_path):
    splits = {"fold1": (3, noises(3)), "fold2": (1, [make_record("tone", tone(1.0), ["a tone"])])}
    prepare_records(splits, tmp_path, {"folds": 2}, log=lambda line: None)
    values = np.concatenate(
        [clip_log_mel(record.waveform(), default_config().audio) for record in open_split(tmp_path, "fold1")]
    )
    assert read_log_mel_statistics(tmp_path) == pytest.approx((values.mean(), values.std()), abs=1e-3)


def test_a_sample_comes_from_all_shards_and_is_seeded(tmp_path, monkeypatch):
    records = noises(60)
    monkeypatch.setattr(log_mel_sample, "MEASURED_CLIPS", 20)
    results = []
    for name in ("a", "b"):
        prepare_records({"train": (60, records)}, tmp_path / name, {"seed": 0}, log=lambda line: None)
        results.append(json.loads(summary_file(tmp_path / name).read_text())["log_mel"])
    assert results[0] == results[1] and results[0]["clips"] == 20
    values = np.stack([clip_log_mel(record.waveform(), default_config().audio) for record in records])
    error = values.mean(axis=(1, 2)).std() / np.sqrt(20)
    assert 0 < abs(results[0]["mean"] - values.mean()) < 4 * error


def test_other_front_ends_other_builders_and_missing_data_have_none(tmp_path):
    assert read_log_mel_statistics(tmp_path / "missing") is None
    output = tiny_dataset(tmp_path / "tiny", count=2, test_count=1)
    audio = default_config().audio
    audio.mean = 1.0  # does not change what is measured
    assert read_log_mel_statistics(output, audio) is not None
    audio.mels = 128
    assert read_log_mel_statistics(output, audio) is None
    summary_file(output).write_text("{")
    with pytest.raises(RecordsError, match="not valid JSON"):
        read_log_mel_statistics(output)
    summary_file(output).unlink()
    assert read_log_mel_statistics(output) is None
