"""Sounds, spectrograms and charts as data URIs, so that the page needs no other file."""

import base64
import dataclasses
import functools
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped
from ml_collections import ConfigDict

from slap_jax.batch import PADDING_SEGMENT
from slap_jax.config.defaults import samples_per_column
from slap_jax.drawing.theme import PRINT, Theme, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_SECONDS = 12.0  # of a player

DARK = Theme(
    ink="#e6e6e1",
    muted="#9aa3ab",
    line="#31373d",
    surface="#14171a",
    total="#aab4bd",
    contrastive="#7fb4de",
    distillation="#e0986b",
    captioning="#98c486",
)

# (format, subtype, media type), smallest first. Every browser plays MP3; a libsndfile without it has one of the others.
_FORMATS = (("MP3", "MPEG_LAYER_III", "audio/mpeg"), ("OGG", "VORBIS", "audio/ogg"), ("WAV", "PCM_16", "audio/wav"))


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure for the page in two colour schemes.

    Attributes:
        light: SVG as a data URI.
        dark: likewise.
        description: description for readers who cannot see it.
    """

    light: str
    dark: str
    description: str


def chart(draw: Callable[[Theme], "Figure"], description: str, tight: bool = False) -> Chart:
    """Draws a figure once for light and once for dark mode.

    Args:
        draw: returns the figure in the colours of a theme; called within `drawing(theme)`.
        description: description for readers who cannot see it.
        tight: cut off empty margins.
    """

    def svg(theme: Theme) -> str:
        buffer = io.BytesIO()
        with drawing(theme):
            draw(theme).savefig(
                buffer, format="svg", metadata={"Date": None}, transparent=True, bbox_inches="tight" if tight else None
            )
        return _data_uri("image/svg+xml", buffer.getvalue())

    return Chart(svg(PRINT), svg(DARK), description)


def audio_data_uri(waveform: Shaped[np.ndarray, " n"], sample_rate: int, seconds: float = MAX_SECONDS) -> str:
    """Encodes the beginning of a clip for an `<audio>` element.

    Args:
        waveform: int16, or float in [-1, 1].
        sample_rate: sample rate in Hz.
        seconds: longer clips are cut there.
    """
    import soundfile

    kind, subtype, media_type = _audio_format()
    buffer = io.BytesIO()
    samples = np.asarray(waveform[: int(seconds * sample_rate)])
    soundfile.write(buffer, samples, sample_rate, format=kind, subtype=subtype)
    return _data_uri(media_type, buffer.getvalue())


def spectrogram_data_uri(waveform: Shaped[np.ndarray, " n"], audio: ConfigDict, seconds: float = MAX_SECONDS) -> str:
    """Draws the log-mel of the beginning of a clip, as the model computes it, with one pixel per frame and mel bin.

    Args:
        waveform: samples at the sample rate of `audio`.
        audio: the audio settings.
        seconds: longer clips are cut there.
    """
    import jax.numpy as jnp
    import matplotlib.image

    from slap_jax.models.frontend import log_mel

    size = samples_per_column(audio)
    columns = int(seconds * audio.sample_rate) // size  # one shape for all clips, so one compilation
    samples = np.zeros((1, columns * size), np.asarray(waveform).dtype)
    shown = np.asarray(waveform)[: columns * size]
    samples[0, : len(shown)] = shown
    used = max(1, -(-len(shown) // size))
    segment_ids = np.where(np.arange(columns) < used, 1, PADDING_SEGMENT)[None].astype(np.int32)
    mel = np.asarray(log_mel(jnp.asarray(samples), jnp.asarray(segment_ids), audio))[0, :used].reshape(-1, audio.mels)
    mel = mel[: max(1, -(-len(shown) // audio.hop_length))]
    step = max(1, len(mel) // 300)
    buffer = io.BytesIO()
    low = float(np.percentile(mel, 1))
    high = max(float(mel.max()), low + 1e-3)
    matplotlib.image.imsave(buffer, mel[::step].T, cmap="magma", origin="lower", vmin=low, vmax=high, format="png")
    return _data_uri("image/png", buffer.getvalue())


@functools.cache
def _audio_format() -> tuple[str, str, str]:
    import soundfile

    return next(entry for entry in _FORMATS if soundfile.check_format(entry[0], entry[1]))


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
