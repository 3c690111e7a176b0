import numpy as np
import pytest

from benchmarks.scaling import cost_of_audio, cost_of_clip_length, short_clips

pytestmark = pytest.mark.compile


def test_short_clips_add_up_to_the_given_duration():
    clips = short_clips(60.0, np.random.default_rng(0))
    assert abs(sum(len(clip.waveform) for clip in clips) / 16_000 - 60.0) <= 0.51
    assert max(len(clip.waveform) for clip in clips) <= 30 * 16_000


def test_cost_is_reported_for_every_size():
    audio = cost_of_audio((5, 10), repeats=1)
    assert [line["audio_s"] for line in audio["lines"]] == [5, 10] and audio["cpu_s_per_audio_s"] > 0
    lines = cost_of_clip_length((1, 2), 2, repeats=1)
    assert [line["clips"] for line in lines] == [2, 1]
    assert lines[0]["flop_ratio"] == 1.0 < lines[1]["flop_ratio"]
