import numpy as np
import pytest
import soundfile

from benchmarks.embed_folder import summary, write_folder


def test_the_folder_has_files_of_mixed_durations(tmp_path):
    seconds = write_folder(tmp_path, 8)
    files = sorted(tmp_path.iterdir())
    assert [soundfile.info(file).duration for file in files] == pytest.approx(seconds, abs=1e-3)
    assert max(seconds) > 2 * min(seconds) and {soundfile.info(file).samplerate for file in files} == {44_100}


def test_ratios_are_of_the_same_round():
    def side(speed, parameters):
        return {"clips_per_s": speed, "clips_per_cpu_s": speed / 2, "parameters": parameters}

    rounds = [
        {"slap_jax": side(ours, 10), "clap_model": side(theirs, 20)} for ours, theirs in ((6, 2), (20, 5), (9, 9))
    ]
    result = summary(rounds)
    assert result["clips_per_s"] == {"slap_jax": 9, "clap_model": 5}
    assert result["clips_per_s_to_clap_model"] == result["clips_per_cpu_s_to_clap_model"] == np.median([3, 4, 1])
    assert result["audio_parameters"] == {"slap_jax": 10, "clap_model": 20}
    assert "clips_per_s_to_clap_model" not in summary([{"slap_jax": side(1, 2)}])
