import pytest
import soundfile

from benchmarks.long_recording import measure, write_noise
from tests.inference.tiny import tiny_config

pytestmark = pytest.mark.compile


def test_every_job_is_measured(tmp_path):
    config = tiny_config()
    config.data.max_seconds = 2.0
    result = measure(config, 3.0, tmp_path)
    assert {"embed_audio", "windows", "scores", "frames"} < set(result)
    assert result["peak_mib_after_a_clip"] > 50 and all(result[job]["wall_s"] >= 0 for job in ("windows", "scores"))
    assert soundfile.info(tmp_path / "long.flac").duration == 3.0


def test_noise_of_minutes(tmp_path):
    write_noise(tmp_path / "noise.flac", 61.5, rate=8_000)
    result = soundfile.info(tmp_path / "noise.flac")
    assert (result.frames, result.channels) == (492_000, 2)
