"""The answers of the page, as functions of a model and the user's input. Nothing here depends on the browser."""

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from jaxtyping import Float

from slap_jax.data.audio import AudioError, encode_flac, to_int16
from slap_jax.data.log_mel import clip_log_mel
from slap_jax.drawing.packed_row import SLOT_COLOURS
from slap_jax.drawing.theme import PRINT, drawing, new_figure
from slap_jax.errors import UserError
from slap_jax.inference.audio_input import SilenceCheck, load_audio, silence_error
from slap_jax.inference.long_audio import Scores
from slap_jax.search.search import Hit, search

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from slap_jax.inference.model import SlapModel
    from slap_jax.other_models.dual_encoder import DualEncoder
    from slap_jax.search.index import SearchIndex

LONGEST_SHOWN = 300.0  # seconds; a longer picture would be a blur
MOST_TEXTS = 8  # lines that remain distinguishable
_WIDTH, _HEIGHT = 10.0, 4.6  # inches
_MOST_FRAMES = 2_000  # more than the picture has pixels
_LABEL_CHARACTERS = 34


class PageError(UserError, ValueError):
    """A missing input or package, or a port that is in use."""


def split_lines(text: str) -> list[str]:
    """Splits typed text at newlines and commas, and drops empty parts and repetitions."""
    parts = [" ".join(part.split()) for part in re.split(r"[,;\n]", text or "")]
    return list(dict.fromkeys(part for part in parts if part))


def timeline(model: "SlapModel", audio: str | None, texts: str) -> str:
    """Returns HTML that shows the log-mel of a recording above its similarity with texts over time.

    Args:
        model: Model to ask.
        audio: Path of the recording.
        texts: One to 8 texts, separated by newlines or commas.

    Raises:
        PageError: There is no recording, no text or too many texts.
        AudioError: The recording cannot be read, or is silent.
        DrawingError: matplotlib is not installed.
    """
    lines = split_lines(texts)
    if not 1 <= len(lines) <= MOST_TEXTS:
        raise PageError(f"there are {len(lines)} texts; type 1 to {MOST_TEXTS}, one per line or separated by commas")
    rate = model.sample_rate
    path = _given(audio)
    whole = load_audio(path, rate)
    check = SilenceCheck()
    check.hear(whole)
    if check.silent:
        raise silence_error(path)
    waveform = whole[: round(LONGEST_SHOWN * rate)]
    scores = model.scores((waveform, rate), lines, allow_silence=True)  # of the part that is shown
    mel = clip_log_mel(to_int16(waveform), model.config.audio)
    seconds = len(waveform) / rate
    with drawing(PRINT):
        figure = timeline_figure(mel, seconds, scores, lines)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=180)  # sharp on high-resolution screens as well
    best = scores.scores.argmax(axis=0)
    moments = ", ".join(
        f"{text} at {scores.start[column]:.1f} s ({scores.scores[column, number]:.2f})"
        for number, (text, column) in enumerate(zip(lines, best, strict=True))
    )
    cut = (
        f" Only the first {seconds:.0f} s of {len(whole) / rate:.0f} s are shown." if len(waveform) < len(whole) else ""
    )
    note = html.escape(f"Highest: {moments}.{cut}")
    image = base64.b64encode(picture.getvalue()).decode()
    return f'<img class="slap-timeline" alt="{note}" src="data:image/png;base64,{image}"><p>{note}</p>'


def classify(model: "SlapModel | DualEncoder", audio: str | None, labels: str) -> dict[str, float]:
    """Returns the probability of each label.

    Args:
        model: Model to ask.
        audio: Path of the recording.
        labels: At least two labels, separated by newlines or commas.

    Raises:
        PageError: There is no recording, or fewer than two labels.
        AudioError: The recording cannot be read.
    """
    names = split_lines(labels)
    if len(names) < 2:
        raise PageError("type at least two labels, one per line or separated by commas")
    return model.classify(_given(audio), names)[0]


def caption(model: "SlapModel | DualEncoder", audio: str | None, beam: int = 1) -> str:
    """Returns a caption of a recording.

    Raises:
        PageError: There is no recording.
        AudioError: The recording cannot be read.
        ExportError: The model has no caption decoder.
    """
    return model.caption(_given(audio), beam=int(beam))[0]


def search_page(
    model: "SlapModel | DualEncoder", index: "SearchIndex | None", text: str, audio: str | None, alike: bool, k: int
) -> str:
    """Searches the folder and returns the hits as HTML, with a player for each.

    Args:
        model: Model that made the index.
        index: Index of the folder; None if the page has none.
        text: Text to search for; may be empty if `alike`.
        audio: Path of the recording.
        alike: Search for the recording as well.
        k: Largest number of hits.

    Raises:
        PageError: There is no folder, or neither a text nor a recording to search for.
        SearchError: Another model made the index.
    """
    if index is None:
        raise PageError(
            "there is no folder to search: run `slap index DIR`, then start the page with `slap demo --folder DIR`"
        )
    text = " ".join((text or "").split())
    if not text and not alike:
        raise PageError("type a text to search for, or tick the box to search with the recording")
    hits = search(model, index, text or None, _given(audio) if alike else None, int(k))
    return hits_html(hits, index.root, model.sample_rate)


def hits_html(hits: Sequence[Hit], root: Path, rate: int) -> str:
    """Returns hits as an HTML list: rank, file, time, score and a player of the moment.

    Args:
        hits: Hits, the best first.
        root: Folder of the recordings; names are relative to it.
        rate: Sample rate of the players in Hz.
    """
    if not hits:
        return '<p class="slap-none">Nothing is indexed.</p>'
    rows = []
    for rank, hit in enumerate(hits, 1):
        name = html.escape(Path(hit.path).relative_to(root).as_posix(), quote=True)
        # The cosine of sound with text is small even for a good match, so bars are relative to the best hit.
        width = 100 * max(hit.score, 0) / max(hits[0].score, 1e-6)
        rows.append(
            f'<li class="slap-hit"><span class="slap-rank">{rank}</span>'
            f'<div class="slap-what"><span class="slap-name" title="{name}">{name}</span>'
            f'<span class="slap-when">{_clock(hit.start)} – {_clock(hit.end)}</span>'
            f'<span class="slap-score"><i style="width:{width:.0f}%"></i></span>'
            f'<span class="slap-number">{hit.score:.3f}</span></div>{_player(hit, rate, name)}</li>'
        )
    return f'<ol class="slap-hits">{"".join(rows)}</ol>'


def moment(hit: Hit, rate: int) -> Float[np.ndarray, " n"]:
    """Reads the moment of a hit, and only that part of the file if its format allows seeking.

    Raises:
        AudioError: The file can no longer be read.
    """
    try:
        with soundfile.SoundFile(hit.path) as file:
            file.seek(min(round(hit.start * file.samplerate), max(file.frames - 1, 0)))
            samples = file.read(round((hit.end - hit.start) * file.samplerate), dtype="float32", always_2d=True)
            return load_audio((samples, file.samplerate), rate, name=hit.path)
    except (soundfile.SoundFileError, RuntimeError):
        return load_audio(hit.path, rate)[round(hit.start * rate) : round(hit.end * rate)]


def _player(hit: Hit, rate: int, name: str) -> str:
    try:
        sound = base64.b64encode(encode_flac(to_int16(moment(hit, rate)), rate)).decode()
    except AudioError as error:
        return f'<span class="slap-none">{html.escape(str(error))}</span>'
    return f'<audio controls preload="metadata" aria-label="{name}" src="data:audio/flac;base64,{sound}"></audio>'


def _given(audio: str | None) -> str:
    if not audio:
        raise PageError("there is no sound yet: record one, or drop a file")
    return audio


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def timeline_figure(
    log_mel: Float[np.ndarray, "frames mels"], seconds: float, scores: Scores, texts: Sequence[str]
) -> "Figure":
    """Draws a log-mel, and below it a line for each text. Call it within `drawing(PRINT)`.

    Args:
        log_mel: Natural log-mel; its frames cover the recording, padded to a whole column.
        seconds: Duration of the recording.
        scores: Cosine of each column with each text.
        texts: Labels of the lines.
    """
    figure = new_figure(_WIDTH, _HEIGHT)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.15])
    _draw_log_mel(above, log_mel, float(scores.start[-1]) + _column_seconds(scores))
    _draw_scores(below, scores, texts)
    below.set_xlim(0, seconds)
    below.set_xlabel("seconds")
    return figure


def _column_seconds(scores: Scores) -> float:
    """Returns the duration of a column, or of the recording if that is shorter."""
    return float(scores.start[1] - scores.start[0]) if len(scores.start) > 1 else float(scores.end[0])


def _draw_log_mel(axes: "Axes", log_mel: Float[np.ndarray, "frames mels"], seconds: float) -> None:
    step = -(-len(log_mel) // _MOST_FRAMES)
    if step > 1:  # keep the loudest frame of each pixel, so that a click does not vanish
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
