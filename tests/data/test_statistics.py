import json

import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.config import default_config
from slap_jax.data.audio import to_int16
from slap_jax.data.packing import Clip, pack_rows
from slap_jax.data.records import RecordsError, open_split
from slap_jax.data.statistics import log_mel, split_statistics
from slap_jax.models import frontend
from tests.data.tiny_data import tone

AUDIO = default_config().audio


def test_mean_and_deviation_are_those_of_all_frames(dataset):
    statistics = split_statistics(dataset, "train", AUDIO)
    frames = np.concatenate([log_mel(record.waveform(), AUDIO) for record in open_split(dataset, "train")])
    assert statistics["mean"] == pytest.approx(frames.mean(), abs=1e-3)
    assert statistics["std"] == pytest.approx(frames.std(), abs=1e-3)
    assert json.loads(json.dumps(statistics)) == statistics


def test_durations_and_counts(dataset):
    statistics = split_statistics(dataset, "train+test", AUDIO)
    seconds = [record.duration_s for record in open_split(dataset, "train+test")]
    assert (statistics["clips"], statistics["measured"]) == (30, 30)
    assert statistics["hours"] == pytest.approx(sum(seconds) / 3_600, abs=1e-4)
    assert statistics["duration_s"]["max"] == pytest.approx(max(seconds), abs=1e-3)
    assert statistics["columns_of_longest"] == np.ceil(max(seconds) / 0.16)


def test_sample_is_seeded(dataset):
    first, again, other = (split_statistics(dataset, "train", AUDIO, clips=5, seed=seed) for seed in (0, 0, 1))
    assert first == again != other and first["measured"] == 5 and first["clips"] == 24


@pytest.mark.parametrize("samples", [1, 2_560, 2_561, 16_000])
def test_frames_are_those_that_the_model_sees(samples):
    waveform = to_int16(tone(1.0)[:samples])
    batch, _ = pack_rows([Clip(waveform, [], 0), Clip(np.full(3_000, 9_000, np.int16), [], 1)], 16, 2, 1, 2_560)
    expected = np.asarray(frontend.log_mel(jnp.asarray(batch.waveform), jnp.asarray(batch.audio_segments), AUDIO))
    host = log_mel(waveform, AUDIO)
    np.testing.assert_allclose(host, expected[0, : -(-samples // 2_560)].reshape(len(host), -1), atol=1e-4)


def test_missing_data(tmp_path):
    with pytest.raises(RecordsError):
        split_statistics(tmp_path, "train", AUDIO)
