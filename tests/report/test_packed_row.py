import dataclasses

import numpy as np
import pytest

from slap_jax.config import default_config
from slap_jax.drawing.theme import PRINT, drawing
from slap_jax.report.packed_row import MASKS, attention_mask, example_row, mask_figure
from tests.report.run_dir import make_clips


class LengthTokenizer:
    def encode(self, text, max_tokens):
        return list(range(1, min(max_tokens, len(text.split())) + 1))


def tiny_config():
    config = default_config()
    config.data.update(columns=40, slots=5, text_tokens=64, max_seconds=4.0, max_caption_tokens=16)
    return config


@pytest.fixture(scope="module")
def row():
    row = example_row(make_clips(12), LengthTokenizer(), tiny_config())
    assert row is not None
    return row


def test_the_row_is_one_row_of_training(row):
    assert row.batch.waveform.shape == (1, 40 * 2_560)
    assert row.log_mel.shape == (40 * 16, 64)
    assert int(row.segments.max()) == len(row.clips) == len(row.captions) <= 5
    for slot, clip in enumerate(row.clips):
        start, end = row.span(slot)
        assert (end - start) == pytest.approx(0.16 * -(-len(clip.waveform) // 2_560))
        first = round(start * 16_000)
        np.testing.assert_array_equal(row.batch.waveform[0, first : first + len(clip.waveform)], clip.waveform)


def test_clips_that_no_row_can_hold_are_left_out():
    long = dataclasses.replace(make_clips(1)[0], waveform=np.ones(16_000 * 5, np.int16))
    assert example_row([long], LengthTokenizer(), tiny_config()) is None
    assert example_row([], LengthTokenizer(), tiny_config()) is None


def test_masks_keep_to_the_segment_and_to_the_window():
    segments = np.array([1, 1, 1, 1, 2, 2, 0, 0])
    whole, near = attention_mask(segments, None), attention_mask(segments, 1)
    np.testing.assert_array_equal(whole, segments[:, None] == segments[None])
    assert near[0, 1] and not near[0, 2] and not near[3, 4] and near[6, 7]


def test_masks_are_drawn(row, tmp_path):
    with drawing(PRINT):
        mask_figure(row, MASKS, PRINT).savefig(tmp_path / "masks.png")
    assert (tmp_path / "masks.png").stat().st_size > 5_000
