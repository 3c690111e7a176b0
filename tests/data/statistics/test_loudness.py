import numpy as np
import pytest

from slap_jax.data.audio import to_int16
from slap_jax.data.statistics.loudness import LOWEST_DBFS, loudness
from tests.data.tiny_data import tone


@pytest.mark.parametrize(
    ("samples", "dbfs"),
    [
        (to_int16(tone(1.0, 1_000.0, amplitude=1.0)), -3.01),
        (to_int16(tone(1.0, 1_000.0, amplitude=0.1)), -23.01),
        (np.full(100, -32_768, np.int16), 0.0),
        (np.array([1, -1], np.int16), -90.31),
        (np.zeros(100, np.int16), LOWEST_DBFS),
    ],
)
def test_loudness_is_relative_to_full_scale(samples, dbfs):
    assert loudness(samples) == pytest.approx(dbfs, abs=0.01)
