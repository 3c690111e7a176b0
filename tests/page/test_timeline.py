"""The picture of a recording over time: what its axes show, on wide and narrow screens."""

from typing import Any

import librosa
import numpy as np
import pytest

from slap_jax.config import default_config
from slap_jax.drawing.theme import PRINT, drawing
from slap_jax.inference.long_audio import Scores
from slap_jax.page.timeline import LAYOUTS, Layout, timeline_figure

AUDIO = default_config().audio


def scores(columns: int, texts: int, seconds: float) -> Scores:
    start = 0.16 * np.arange(columns)
    values = np.random.default_rng(0).normal(size=(columns, texts)).astype(np.float32)
    return Scores(start, np.minimum(start + 0.16, seconds), values)


def draw(log_mel: np.ndarray, seconds: float, given: Scores, texts: list[str], layout: Layout = LAYOUTS[0]) -> Any:
    with drawing(PRINT):
        figure = timeline_figure(log_mel, seconds, given, texts, AUDIO, layout)
        figure.canvas.draw()
    return figure


def test_sound_and_lines_share_their_seconds():
    given = scores(columns=7, texts=2, seconds=1.0)
    figure = draw(np.random.default_rng(1).normal(size=(7 * 16, 64)), 1.0, given, ["a dog barks", "x" * 50])
    above, below = figure.axes
    assert above.get_xlim() == below.get_xlim() == (0, 1.0)
    assert above.images[0].get_extent() == [0, pytest.approx(1.12), 0, 64]  # frames cover whole columns
    for number, line in enumerate(below.patches):
        values, edges, _ = line.get_data()
        assert values.tolist() == given.scores[:, number].tolist()
        assert edges.tolist() == pytest.approx([0, 0.16, 0.32, 0.48, 0.64, 0.8, 0.96, 1.0])
    labels = [text.get_text() for text in below.get_legend().get_texts()]
    assert labels == ["a dog barks", "x" * 33 + "…"]
    assert len({line.get_edgecolor() for line in below.patches}) == 2


def test_a_click_in_a_long_recording_is_seen():
    log_mel = np.full((9_000, 64), -23.0)
    log_mel[4_321, 10] = 2.0
    figure = draw(log_mel, 90.0, scores(563, 1, 90.0), ["a click"])
    picture = figure.axes[0].images[0].get_array()
    assert picture.shape[1] <= 2_000 and picture.max() == 2.0
    place = np.unravel_index(picture.argmax(), picture.shape)
    assert place[0] == 10 and place[1] / picture.shape[1] == pytest.approx(4_321 / 9_000, abs=2e-3)


def test_a_clip_of_one_column():
    figure = draw(np.zeros((16, 64)), 0.1, scores(1, 1, 0.1), ["short"])
    assert figure.axes[1].get_xlim() == (0, 0.1) and len(figure.axes[1].patches) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frequencies_are_where_their_tones_are(layout):
    """A tone is loudest in the band that the axis marks with its frequency."""
    figure = draw(np.zeros((64, 64)), 0.64, scores(4, 2, 0.64), ["a", "b"], layout)
    axes = figure.axes[0]
    ticks = {label.get_text(): place for label, place in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    bank = librosa.filters.mel(
        sr=AUDIO.sample_rate, n_fft=AUDIO.n_fft, n_mels=AUDIO.mels, fmin=AUDIO.f_min, fmax=AUDIO.f_max
    )
    for text, place in ticks.items():
        response = bank[:, round(float(text.replace(",", "")) / AUDIO.sample_rate * AUDIO.n_fft)]
        assert abs(place - (response.argmax() + 0.5)) <= 1
    legend = figure.axes[1].get_legend().get_window_extent()
    assert figure.bbox.x0 <= legend.x0 and legend.x1 <= figure.bbox.x1 + 1 and legend.y0 >= figure.bbox.y0 - 1
