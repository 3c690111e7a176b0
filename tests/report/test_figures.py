"""Curves, masks and the packed row of the report, and the numbers that go with them."""

import base64
import dataclasses
import json

import numpy as np
import pytest

from slap_jax.config.defaults import default_config
from slap_jax.drawing.theme import PRINT, drawing, new_figure
from slap_jax.report.curves import closing_value, loss_panels, smooth
from slap_jax.report.figures import MASKS, attention_mask, example_row, mask_figure
from slap_jax.report.media import DARK, chart
from slap_jax.report.record import parameter_counts, read_run, summarise
from slap_jax.report.render import count, duration, hours, listing, number, ordinal
from tests.report.run_dir import make_clips, write_metrics, write_run


@pytest.fixture
def run_dir(tmp_path):
    write_run(tmp_path / "run", make_clips(2))
    return tmp_path / "run"


def test_smoothing_keeps_a_constant_and_bridges_gaps():
    values = np.full(50, 2.0)
    values[10] = np.nan
    np.testing.assert_allclose(smooth(values), 2.0)
    noisy = np.random.default_rng(0).normal(size=400)
    assert smooth(noisy)[20:-20].std() < 0.4 * noisy.std()
    assert smooth(np.array([1.0, 5.0]))[0] == 1.0


def test_the_total_is_shown_only_with_several_objectives(run_dir):
    titles = [panel.title for panel in loss_panels(read_run(run_dir))]
    assert titles == ["contrastive", "captioning", "total"]
    write_metrics(run_dir, 5, objectives=("contrastive",))
    assert [panel.title for panel in loss_panels(read_run(run_dir))] == ["contrastive"]
    write_metrics(run_dir, 5, objectives=("siamese_text",))  # an objective that the report does not know
    assert [panel.title for panel in loss_panels(read_run(run_dir))] == ["siamese text"]


def test_pause_between_two_processes_is_not_wall_time(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()[:-1]]
    for line in lines[15:]:
        line["time"] += 86_400
    del lines[15]["speed/steps_per_s"]
    evaluation = {"step": 20, "time": lines[19]["time"] + 1, "retrieval/clips/t2a_r1": 0.2}
    lines.insert(20, evaluation)
    (run_dir / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert summarise(read_run(run_dir))["wall_seconds"] == pytest.approx(28 * 5)


def test_closing_value_is_the_mean_of_the_last_tenth(run_dir):
    assert closing_value(read_run(run_dir), "loss/total") == pytest.approx((5 / 28 + 5 / 29 + 5 / 30) / 3)


def test_parameters_are_counted_by_part_from_the_header(run_dir):
    from safetensors.numpy import save_file

    tensors = {
        "model/audio_encoder/a": np.zeros((2, 3), np.float32),
        "model/audio_encoder/b": np.zeros(4, np.float32),
        "objectives/captioning/decoder/c": np.zeros((5, 1), np.float32),
    }
    save_file(tensors, run_dir / "export" / "model.safetensors")
    run = read_run(run_dir)
    assert parameter_counts(run.parameters) == {"audio_encoder": 10, "captioning": 5}
    assert summarise(run)["parameters"] == 15


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (3, "3"),
        (12_345, "12,345"),
        (0.12345, "0.123"),
        (4.2e-5, "4.20e-05"),
        (float("nan"), "–"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_numbers_in_words():
    assert [duration(seconds) for seconds in (None, 5, 65, 7_260)] == ["–", "5 s", "1 min 5 s", "2 h 1 min"]
    assert [count(value) for value in (None, 950, 12_300, 2_500_000)] == ["–", "950", "12.3 k", "2.5 M"]
    assert [hours(seconds) for seconds in (None, 49.5, 3_600, 4_500_000)] == ["–", "0.0138", "1", "1,250"]
    assert [ordinal(rank) for rank in (1, 2, 13, 1_023)] == ["1st", "2nd", "13th", "1,023rd"]
    assert [listing(names, "word") for names in (["a"], ["a", "b", "c"])] == ["the a word", "the a, b and c words"]


def test_a_chart_is_drawn_in_the_colours_of_both_themes():
    def draw(theme):
        figure = new_figure(2, 1)
        figure.subplots().plot([0, 1], [0, 1], color=theme.contrastive)
        return figure

    drawn = chart(draw, "a line")
    for uri, theme, other in ((drawn.light, PRINT, DARK), (drawn.dark, DARK, PRINT)):
        svg = base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()
        for role in ("contrastive", "muted", "line"):
            assert getattr(theme, role) in svg and getattr(other, role) not in svg


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


@pytest.mark.compile
def test_the_row_is_one_row_of_training(row):
    assert row.batch.waveform.shape == (1, 40 * 2_560)
    assert row.log_mel.shape == (40 * 16, 64)
    assert int(row.audio_segment_ids.max()) == len(row.clips) == len(row.captions) <= 5
    for slot, clip in enumerate(row.clips):
        start, end = row.span(slot)
        assert (end - start) == pytest.approx(0.16 * -(-len(clip.waveform) // 2_560))
        first = round(start * 16_000)
        np.testing.assert_array_equal(row.batch.waveform[0, first : first + len(clip.waveform)], clip.waveform)


def test_clips_that_no_row_can_hold_are_left_out():
    long = dataclasses.replace(make_clips(1)[0], waveform=np.ones(16_000 * 5, np.int16))
    assert example_row([long], LengthTokenizer(), tiny_config()) is None
    assert example_row([], LengthTokenizer(), tiny_config()) is None


@pytest.mark.compile
def test_masks_keep_to_the_segment_and_to_the_window():
    segments = np.array([1, 1, 1, 1, 2, 2, 0, 0])
    whole, near = attention_mask(segments, None), attention_mask(segments, 1)
    np.testing.assert_array_equal(whole, segments[:, None] == segments[None])
    assert near[0, 1] and not near[0, 2] and not near[3, 4] and near[6, 7]


@pytest.mark.compile
def test_masks_are_drawn(row, tmp_path):
    with drawing(PRINT):
        mask_figure(row, MASKS, PRINT).savefig(tmp_path / "masks.png")
    assert (tmp_path / "masks.png").stat().st_size > 5_000
