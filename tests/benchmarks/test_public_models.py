import numpy as np
import pytest
import soundfile

from benchmarks.public_models import write_folder


def test_the_folder_has_mixed_lengths_rates_and_formats(tmp_path):
    total = write_folder(tmp_path, 20)
    found = [soundfile.info(file) for file in sorted(tmp_path.iterdir())]
    assert sum(info.duration for info in found) == pytest.approx(total, abs=1e-2)
    assert [index for index, info in enumerate(found) if info.duration > 10] == [0, 5, 10, 15]
    assert {(info.samplerate, info.format) for info in found} == {
        (rate, form) for rate in (44_100, 48_000) for form in ("WAV", "FLAC")
    }
    assert np.std([info.duration for info in found]) > 2
