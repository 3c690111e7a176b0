"""What stands in the picture: the sound and the lines lie at their seconds."""

from typing import Any

import numpy as np
import pytest

from slap_jax.drawing.theme import PRINT, drawing
from slap_jax.inference.results import Scores
from slap_jax.page.timeline import timeline_figure


def scores(columns: int, texts: int, seconds: float) -> Scores:
    start = 0.16 * np.arange(columns)
    values = np.random.default_rng(0).normal(size=(columns, texts)).astype(np.float32)
    return Scores(start, np.minimum(start + 0.16, seconds), values)


def draw(log_mel: np.ndarray, seconds: float, given: Scores, texts: list[str]) -> Any:
    with drawing(PRINT):
        figure = timeline_figure(log_mel, seconds, given, texts)
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
