import numpy as np
import pytest

from slap_jax.data.audio import to_int16
from slap_jax.data.clip_statistics import LOWEST_DBFS, ClipStatistics, Distribution, loudness
from tests.data.tiny_data import tone


def test_quantiles_are_those_of_the_numbers_to_a_fine_bin():
    values = np.random.default_rng(0).normal(0.0, 2.0, 5_000).clip(-9, 9)
    distribution = Distribution(-10.0, 10.0, 0.5)
    for part in np.array_split(values, 7):
        distribution.add(part)
    for name, value in distribution.quantiles().items():
        exact = np.quantile(values, float(name.rstrip("%")) / 100, method="inverted_cdf")
        assert value == pytest.approx(exact, abs=0.5 / 100)


def test_histogram_holds_every_number_once_and_numbers_on_an_edge_above_it():
    distribution = Distribution(-102.0, 3.0, 3.0)
    distribution.add(np.array([-60.0, -59.9, -3.0, -0.1, -200.0, 50.0]))
    edges, counts = distribution.histogram()
    assert counts.sum() == 6 and edges[0] == -102.0 and edges[-1] == 3.0
    assert counts[np.flatnonzero(edges == -60.0)[0]] == 2
    assert (counts[0], counts[-1]) == (1, 1)  # beyond the bounds


def test_durations_from_one_sample_to_a_day():
    statistics = ClipStatistics()
    statistics.add_durations(np.array([1, 16_000, 16_000 * 86_400]))
    statistics.add_loudness(np.array([-20.0]))
    summary = statistics.summary()
    assert summary["duration_s"]["quantiles"]["50%"] == pytest.approx(1.0, rel=1e-3)
    assert sum(summary["duration_s"]["histogram"]["counts"]) == 3
    assert summary["duration_s"]["histogram"]["edges"][-1] == pytest.approx(1e5)
    assert sum(summary["loudness_dbfs"]["histogram"]["counts"]) == 1


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
