"""Draws a recording's log-mel above how much each moment of it fits some texts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from slap_jax.drawing.packed_row import SLOT_COLOURS
from slap_jax.drawing.theme import PRINT, new_figure
from slap_jax.inference.results import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 10.0, 4.6  # inches
_MOST_FRAMES = 2_000  # more than the picture has pixels
_LABEL_CHARACTERS = 34


def timeline_figure(
    log_mel: Float[np.ndarray, "frames mels"], seconds: float, scores: Scores, texts: Sequence[str]
) -> "Figure":
    """Draws, within `drawing(PRINT)`, a log-mel and below it a line for each text.

    Args:
        log_mel: natural log; its frames cover the recording, and silence after it up to a whole column.
        seconds: duration of the recording.
        scores: cosine of each column with each text.
        texts: what the lines are called.
    """
    figure = new_figure(_WIDTH, _HEIGHT)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.15])
    _draw_log_mel(above, log_mel, float(scores.start[-1]) + _column_seconds(scores))
    _draw_scores(below, scores, texts)
    below.set_xlim(0, seconds)
    below.set_xlabel("seconds")
    return figure


def _column_seconds(scores: Scores) -> float:
    """Duration of a column; a recording of one column may be shorter than that."""
    return float(scores.start[1] - scores.start[0]) if len(scores.start) > 1 else float(scores.end[0])


def _draw_log_mel(axes: "Axes", log_mel: Float[np.ndarray, "frames mels"], seconds: float) -> None:
    step = -(-len(log_mel) // _MOST_FRAMES)
    if step > 1:  # the loudest of each few frames: a click between two pixels must not vanish
        starts = np.arange(0, len(log_mel), step)
        log_mel = np.maximum.reduceat(log_mel, starts)
    loudest = float(log_mel.max())
    axes.imshow(
        log_mel.T,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, log_mel.shape[1]),
        cmap="magma",
        vmin=loudest - 11.5,  # 50 dB
        vmax=loudest,
    )
    axes.set_title("log-mel spectrogram")
    axes.set_ylabel("mel band")
    axes.set_yticks([0, log_mel.shape[1]])


def _draw_scores(axes: "Axes", scores: Scores, texts: Sequence[str]) -> None:
    # Each column is a step as wide as it lasts.
    edges = np.append(scores.start, scores.end[-1])
    for number, text in enumerate(texts):
        colour = SLOT_COLOURS[number % len(SLOT_COLOURS)]
        axes.stairs(scores.scores[:, number], edges, baseline=None, color=colour, linewidth=1.6, label=_short(text))
    axes.axhline(0, color=PRINT.line, linewidth=0.8, zorder=0)
    axes.margins(y=0.08)
    axes.set_title("similarity with each text, at each moment (cosine)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1.02), frameon=False, borderaxespad=0, handlelength=1.2)


def _short(text: str) -> str:
    return text if len(text) <= _LABEL_CHARACTERS else text[: _LABEL_CHARACTERS - 1] + "…"
