"""Windows over a stream, what is held meanwhile, and one answer per moment."""

import numpy as np
import pytest

from slap_jax.inference.recordings import even_cut, overlapping_cut, pieces
from slap_jax.inference.windows import Span, WindowError, join_columns, mean_of_windows, overlapping_windows


def windows(samples, length, hop, block=7, whole=0):
    stream = np.arange(samples, dtype=np.float32)
    found = overlapping_windows((stream[i : i + block] for i in range(0, samples, block)), length, hop, whole)
    return [(window.start, window.samples.tolist()) for window in found]


@pytest.mark.parametrize("block", [1, 7, 100])
@pytest.mark.parametrize(
    ("samples", "starts"), [(1, [0]), (10, [0]), (11, [0, 6]), (16, [0, 6]), (17, [0, 6, 12]), (22, [0, 6, 12])]
)
def test_windows_cover_the_recording(samples, starts, block):
    found = windows(samples, 10, 6, block)
    assert [start for start, _ in found] == starts
    for start, values in found:
        assert values == list(range(start, min(start + 10, samples)))
    assert len(starts) == 1 or len(found[-1][1]) > 4


def test_a_recording_that_is_short_enough_stays_whole():
    assert [start for start, _ in windows(14, 10, 6, whole=14)] == [0]
    assert windows(15, 10, 6, whole=14) == windows(15, 10, 6)


def test_windows_are_cut_while_the_stream_is_read():
    read = 0

    def stream():
        nonlocal read
        for _ in range(1_000):
            read += 10
            yield np.zeros(10, np.float32)

    for window in overlapping_windows(stream(), 40, 30):
        assert read <= window.start + 40 + 2 * 10


def test_each_column_is_taken_where_it_is_most_central():
    parts = [(0, np.full(9, 0)), (6, np.full(9, 1)), (12, np.full(5, 2))]
    assert join_columns(parts).tolist() == [0] * 7 + [1] * 6 + [2] * 4
    assert join_columns([(0, np.arange(3))]).tolist() == [0, 1, 2]


def test_the_mean_counts_seconds_and_not_the_order():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(3, 8)).astype(np.float32)
    parts = [(Span(0, start, length), v) for start, length, v in zip((0, 6, 12), (10, 10, 5), vectors, strict=True)]
    expected = (10 * vectors[0] + 10 * vectors[1] + 5 * vectors[2]).astype(np.float64)
    assert np.allclose(mean_of_windows(parts), expected / np.linalg.norm(expected), atol=1e-6)
    assert np.array_equal(mean_of_windows(parts[::-1]), mean_of_windows(parts))
    assert mean_of_windows(parts[:1]) is vectors[0] or np.array_equal(mean_of_windows(parts[:1]), vectors[0])


def test_windows_of_whole_columns_share_a_third():
    assert overlapping_cut(30.0, 16_000, 2_560) == (187 * 2_560, 125 * 2_560, 480_000)
    assert even_cut(10.0, 5.0, 16_000) == (160_000, 80_000, 0)


@pytest.mark.parametrize(("seconds", "hop"), [(0.0, 0.0), (5.0, 6.0), (5.0, 0.0), (-1.0, -1.0), (1.0, 1e-6)])
def test_impossible_windows(seconds, hop):
    with pytest.raises(WindowError, match="expected 0 < hop <= seconds"):
        even_cut(seconds, hop, 16_000)


def test_too_short_windows():
    with pytest.raises(WindowError, match="too short"):
        overlapping_cut(0.3, 16_000, 2_560)


def test_recordings_are_decoded_a_few_ahead(monkeypatch):
    """Only of some recordings the first window is decoded before it is asked for, and of each no more than that."""
    monkeypatch.setattr("slap_jax.inference.recordings.AHEAD", 3)
    touched = set()

    class Recordings(list):
        def __getitem__(self, place):
            touched.add(place)
            return (np.full(25, place, np.int16), 16_000)

    found = pieces(Recordings(range(20)), 16_000, even_cut(10 / 16_000, 6 / 16_000, 16_000))
    for count, piece in enumerate(found):
        assert piece.span == (count // 4, count % 4 * 6, [10, 10, 10, 7][count % 4])
        assert max(touched) <= piece.span.recording + 3
    assert count == 79 and len(touched) == 20
