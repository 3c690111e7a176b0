"""The picture of a recording over time: its log-mel, the similarity of texts below it, a player, and a cursor."""

import base64
import csv
import dataclasses
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from slap_jax.config.mel_filters import import_librosa
from slap_jax.drawing.packed_row import SLOT_COLOURS
from slap_jax.drawing.theme import PRINT, Theme, drawing, new_figure
from slap_jax.inference.long_audio import Scores
from slap_jax.report.media import DARK, audio_data_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_FRAMES = 2_000  # more than the picture has pixels
_LABEL_CHARACTERS = 34
_TICKS_HZ = (250, 1_000, 4_000)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The size of the picture for a kind of screen.

    Attributes:
        name: class of its element in CSS.
        width: inches.
        height: inches.
        legend_below: whether the legend is below the lines instead of to their right.
    """

    name: str
    width: float
    height: float
    legend_below: bool


# On a phone, the wide picture would have text of 2 mm.
LAYOUTS = (Layout("slap-wide", 10.0, 4.6, False), Layout("slap-narrow", 4.3, 4.8, True))


def timeline_html(
    waveform: Float[np.ndarray, " n"],
    rate: int,
    log_mel: Float[np.ndarray, "frames mels"],
    audio: ConfigDict,
    scores: Scores,
    texts: Sequence[str],
    note: str,
) -> str:
    """Returns HTML with a player, the picture for wide and narrow screens and both colour schemes, and the scores.

    The cursor follows the player, and a click in the picture moves the player there. A table of the scores can be
    saved. It loads no other file.

    Args:
        waveform: the recording.
        rate: sample rate in Hz.
        log_mel: natural log-mel; its frames cover the recording, padded to a whole column.
        audio: audio settings of the log-mel.
        scores: cosine of each moment with each text.
        texts: the texts.
        note: text below the picture.
    """
    seconds = len(waveform) / rate
    note = html.escape(note)
    pictures = []
    for layout in LAYOUTS:
        images = []
        for theme, scheme in ((PRINT, "slap-light"), (DARK, "slap-dark")):
            with drawing(theme):
                figure = timeline_figure(log_mel, seconds, scores, texts, audio, layout, theme)
                buffer = io.BytesIO()
                figure.savefig(buffer, format="png", dpi=180, transparent=True)  # sharp on dense screens as well
                above, below = (axes.get_position() for axes in figure.axes[:2])
            image = base64.b64encode(buffer.getvalue()).decode()
            images.append(f'<img class="{scheme}" alt="{note}" src="data:image/png;base64,{image}">')
        # Where the axes are in the picture; the same in both colour schemes.
        area = (
            f"left:{100 * below.x0:.3f}%;width:{100 * below.width:.3f}%;"
            f"top:{100 * (1 - above.y1):.3f}%;height:{100 * (above.y1 - below.y0):.3f}%"
        )
        pictures.append(
            f'<div class="{layout.name} slap-picture">{"".join(images)}'
            f'<div class="slap-area" style="{area}" onclick="{_SEEK}"><i class="slap-cursor"></i></div></div>'
        )
    table = base64.b64encode(scores_csv(scores, texts).encode()).decode()
    return (
        f'<div class="slap-timeline" data-seconds="{seconds:.6f}">'
        f'<audio controls preload="metadata" ontimeupdate="{_FOLLOW}" '
        f'src="{audio_data_uri(waveform, rate, seconds + 1)}"></audio>'
        f"{''.join(pictures)}<p>{note}</p>"
        f'<p><a download="scores.csv" href="data:text/csv;base64,{table}">Save the scores as CSV</a></p></div>'
    )


# Handlers of the player and of the picture. Scripts in inserted HTML do not run; attributes do.
_FOLLOW = (
    "const all=this.closest('.slap-timeline'),at=100*this.currentTime/all.dataset.seconds;"
    "all.querySelectorAll('.slap-cursor').forEach(line=>line.style.left=Math.min(100,at)+'%')"
)
_SEEK = (
    "const all=this.closest('.slap-timeline'),box=this.getBoundingClientRect(),sound=all.querySelector('audio');"
    "sound.currentTime=all.dataset.seconds*Math.max(0,Math.min(1,(event.clientX-box.left)/box.width))"
)


def scores_csv(scores: Scores, texts: Sequence[str]) -> str:
    """Returns a table with the start and end of each moment in seconds, and its cosine with each text."""
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["start", "end", *texts])
    for start, end, row in zip(scores.start, scores.end, scores.scores, strict=True):
        table.writerow([f"{start:.3f}", f"{end:.3f}", *(f"{value:.4f}" for value in row)])
    return buffer.getvalue()


def timeline_figure(
    log_mel: Float[np.ndarray, "frames mels"],
    seconds: float,
    scores: Scores,
    texts: Sequence[str],
    audio: ConfigDict,
    layout: Layout = LAYOUTS[0],
    theme: Theme = PRINT,
) -> "Figure":
    """Draws a log-mel, and below it a line for each text. Call it within `drawing(theme)`.

    Args:
        log_mel: natural log-mel; its frames cover the recording, padded to a whole column.
        seconds: duration of the recording.
        scores: cosine of each moment with each text.
        texts: labels of the lines.
        audio: audio settings of the log-mel.
        layout: size of the picture.
        theme: colours.
    """
    figure = new_figure(layout.width, layout.height)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.15])
    frame = audio.hop_length / audio.sample_rate
    _draw_log_mel(above, log_mel, len(log_mel) * frame, audio)
    _draw_scores(below, scores, texts, layout, theme)
    below.set_xlim(0, seconds)
    below.set_xlabel("seconds")
    figure.canvas.draw()  # places the axes
    return figure


def _draw_log_mel(axes: "Axes", log_mel: Float[np.ndarray, "frames mels"], seconds: float, audio: ConfigDict) -> None:
    step = -(-len(log_mel) // _MOST_FRAMES)
    if step > 1:  # keep the loudest frame of each pixel, so that a click does not vanish
        starts = np.arange(0, len(log_mel), step)
        log_mel = np.maximum.reduceat(log_mel, starts)
    loudest, bands = float(log_mel.max()), log_mel.shape[1]
    axes.imshow(
        log_mel.T,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, bands),
        cmap="magma",
        vmin=loudest - 11.5,  # 50 dB
        vmax=loudest,
    )
    axes.set_title("log-mel spectrogram")
    axes.set_ylabel("Hz")
    to_mel = import_librosa().hz_to_mel
    low, high = to_mel([audio.f_min, audio.f_max])
    # Band i of the filter bank peaks at the edge i + 1 of bands + 2 edges, and is drawn from i to i + 1.
    places = (to_mel(np.array(_TICKS_HZ)) - low) / (high - low) * (bands + 1) - 0.5
    axes.set_yticks(places, [f"{hertz:,}" for hertz in _TICKS_HZ])


def _draw_scores(axes: "Axes", scores: Scores, texts: Sequence[str], layout: Layout, theme: Theme) -> None:
    edges = np.append(scores.start, scores.end[-1])
    for number, text in enumerate(texts):
        colour = SLOT_COLOURS[number % len(SLOT_COLOURS)]
        axes.stairs(scores.scores[:, number], edges, baseline=None, color=colour, linewidth=1.6, label=_short(text))
    axes.axhline(0, color=theme.line, linewidth=0.8, zorder=0)
    axes.margins(y=0.08)
    axes.set_title("similarity with each text (cosine)")
    place: dict = (
        {"loc": "upper left", "bbox_to_anchor": (0, -0.32)}
        if layout.legend_below
        else {"loc": "upper left", "bbox_to_anchor": (1.005, 1.02)}
    )
    axes.legend(**place, frameon=False, borderaxespad=0, handlelength=1.2)


def _short(text: str) -> str:
    return text if len(text) <= _LABEL_CHARACTERS else text[: _LABEL_CHARACTERS - 1] + "…"
