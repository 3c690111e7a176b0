import numpy as np
import pytest

from slap_jax.data.inspect.packing_forecast import RowSize, clips_needed, forecast, pack_sizes
from slap_jax.data.packing import PackingError


def sizes(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(5, 60, count), generator.integers(4, 20, count)


def test_clips_that_tile_a_row_fill_it():
    result = forecast(np.full(2_000, 16), np.full(2_000, 8), RowSize(columns=64, slots=4, text_tokens=64, bins=2))
    assert (result.fill, result.slot_fill, result.text_fill, result.clips_per_row) == (1.0, 1.0, 0.5, 4.0)
    assert result.limits == ()
    assert (result.enough.slots, result.enough.text_tokens, result.enough_fill) == (4, 32, 1.0)


def test_rows_hold_the_given_clips_and_no_more_than_fit():
    columns, tokens = sizes(3_000)
    rows = pack_sizes(columns, tokens, RowSize(columns=200, slots=8, text_tokens=96, bins=4))
    assert len(rows) > 100 and (rows <= [200, 96, 8]).all()
    assert (rows.sum(axis=0) <= [columns.sum(), tokens.sum(), 3_000]).all()
    # The missing clips are in the four open rows.
    assert columns.sum() - rows[:, 0].sum() <= 4 * 200 and 3_000 - rows[:, 2].sum() <= 4 * 8


def test_fractions_are_those_of_the_rows():
    columns, tokens = sizes(3_000)
    room = RowSize(columns=200, slots=8, text_tokens=128, bins=4)
    rows, result = pack_sizes(columns, tokens, room), forecast(columns, tokens, room)
    assert result.rows == len(rows)
    assert result.fill == pytest.approx(rows[:, 0].sum() / (200 * len(rows)))
    assert result.text_fill == pytest.approx(rows[:, 1].sum() / (128 * len(rows)))
    assert result.slot_fill == pytest.approx(rows[:, 2].sum() / (8 * len(rows)))


@pytest.mark.parametrize(
    ("slots", "text_tokens", "limits"),
    [(3, 512, ("slots",)), (32, 40, ("text_tokens",)), (3, 30, ("slots", "text_tokens")), (32, 512, ())],
)
def test_reports_the_limiting_size_and_a_sufficient_value(slots, text_tokens, limits):
    columns, tokens = sizes(4_000)
    result = forecast(columns, tokens, RowSize(columns=200, slots=slots, text_tokens=text_tokens, bins=8))
    assert result.limits == limits
    enough = forecast(columns, tokens, result.enough)
    assert enough.limits == () and enough.fill == pytest.approx(result.enough_fill) and enough.fill > 0.97
    assert result.fill <= enough.fill + 0.003
    for smaller in (result.enough.slots - 4, 0), (0, result.enough.text_tokens - 32):
        room = RowSize(200, smaller[0] or result.enough.slots, smaller[1] or result.enough.text_tokens, 8)
        if room.slots > 0 and room.text_tokens >= tokens.max():
            assert forecast(columns, tokens, room).fill < enough.fill


def test_without_a_tokenizer_text_does_not_limit_rows():
    columns, tokens = sizes(3_000)
    room = RowSize(columns=200, slots=32, text_tokens=40, bins=8)
    without, with_text = forecast(columns, None, room), forecast(columns, tokens, room)
    assert without.text_fill is None and without.limits == ()
    assert with_text.limits == ("text_tokens",) and without.fill > with_text.fill + 0.1


@pytest.mark.parametrize(("columns", "tokens", "message"), [(65, 5, "65 columns"), (5, 33, "33 text tokens")])
def test_a_clip_that_no_row_can_hold(columns, tokens, message):
    with pytest.raises(PackingError, match=message):
        forecast(np.array([columns, 2]), np.array([tokens, 2]), RowSize(64, 4, 32, 2))


def test_too_few_clips_for_a_row():
    with pytest.raises(PackingError, match="complete no row"):
        forecast(np.array([2, 2]), np.array([2, 2]), RowSize(64, 4, 32, 2))


def test_enough_clips_for_a_good_forecast():
    room = RowSize(columns=512, slots=32, text_tokens=1_024, bins=32)
    count = clips_needed(40.0, room)
    columns = np.random.default_rng(0).integers(10, 71, count)
    assert 300 < len(pack_sizes(columns, np.ones_like(columns), room)) < 600
    assert clips_needed(512.0, room) >= 2_000
