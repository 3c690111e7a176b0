import pytest

from benchmarks.front_end import counts_of, fraction_of_flops, speeds
from benchmarks.mixed_clips import mixed_clips
from slap_jax.config.defaults import default_config
from slap_jax.training.flops import train_step_parts

pytestmark = pytest.mark.compile


def test_front_end_is_below_two_percent_of_a_step_at_base_size():
    config, clips = default_config(), mixed_clips(200, vocabulary=40)
    counts = counts_of(config, clips)
    assert counts["clips"] == 200 and counts["audio_tokens"] == 4 * sum(clip.columns for clip in clips)
    assert counts["audio_tokens_squared"] > counts["audio_tokens"] ** 2 / 200  # durations differ
    for weight in (1.0, 0.0):
        config.objectives.distillation.weight = config.objectives.captioning.weight = weight
        parts = train_step_parts(config, counts)
        assert fraction_of_flops(config, clips) == pytest.approx(parts["front_end"] / sum(parts.values()))
        assert 0.0 < fraction_of_flops(config, clips) < 0.02


def test_speed_is_measured_repeatedly():
    result = speeds(default_config(), rows=1, columns=4, repeats=3)
    assert len(result) == 3 and all(wall > 0 and cpu > 0 for wall, cpu in result)
