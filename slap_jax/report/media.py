"""Sound and small pictures of sound as data URIs, so that the page needs no other file.

Pictures inside the page: CSS variables in place of colours (light and dark), SVG and PNG without other files.
"""

import base64
import dataclasses
import functools
import io
import re
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped
from ml_collections import ConfigDict

from slap_jax.batch import PADDING_SEGMENT
from slap_jax.config.defaults import samples_per_column
from slap_jax.drawing.theme import Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MAX_SECONDS = 12.0  # of a player

# Smallest first. MP3 plays in every browser; a libsndfile without it still has one of the others.
_FORMATS = (("MP3", "MPEG_LAYER_III", "audio/mpeg"), ("OGG", "VORBIS", "audio/ogg"), ("WAV", "PCM_16", "audio/wav"))


@functools.cache
def _format() -> tuple[str, str, str]:
    import soundfile

    return next(entry for entry in _FORMATS if soundfile.check_format(entry[0], entry[1]))


def audio_data_uri(waveform: Shaped[np.ndarray, " n"], sample_rate: int, seconds: float = MAX_SECONDS) -> str:
    """Encodes the beginning of a clip for an `<audio>` element.

    Args:
        waveform: int16, or float in [-1, 1].
        sample_rate: in Hz.
        seconds: what is longer is cut there.
    """
    import soundfile

    samples = np.asarray(waveform[: int(seconds * sample_rate)])
    kind, subtype, media_type = _format()
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format=kind, subtype=subtype)
    return f"data:{media_type};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def spectrogram_data_uri(waveform: Shaped[np.ndarray, " n"], audio: ConfigDict, seconds: float = MAX_SECONDS) -> str:
    """Draws the log-mel of the beginning of a clip, as the model hears it, as a PNG of one pixel per frame and mel bin.

    Args:
        waveform: at the sample rate of `audio`.
        audio: the audio settings.
        seconds: what is longer is cut there.
    """
    import jax.numpy as jnp
    import matplotlib.image

    from slap_jax.models.frontend import log_mel

    size = samples_per_column(audio)
    columns = int(seconds * audio.sample_rate) // size  # one shape for all clips: one compilation
    samples = np.zeros((1, columns * size), np.asarray(waveform).dtype)
    kept = np.asarray(waveform)[: columns * size]
    samples[0, : len(kept)] = kept
    owned = max(1, -(-len(kept) // size))
    segments = np.where(np.arange(columns) < owned, 1, PADDING_SEGMENT)[None].astype(np.int32)
    mel = np.asarray(log_mel(jnp.asarray(samples), jnp.asarray(segments), audio))[0, :owned].reshape(-1, audio.mels)
    mel = mel[: max(1, -(-len(kept) // audio.hop_length))]
    step = max(1, len(mel) // 300)
    buffer = io.BytesIO()
    low, high = np.percentile(mel, 1), max(float(mel.max()), float(np.percentile(mel, 1)) + 1e-3)
    matplotlib.image.imsave(buffer, mel[::step].T, cmap="magma", origin="lower", vmin=low, vmax=high, format="png")
    return png_data_uri(buffer.getvalue())


# matplotlib wants colours, CSS wants variables: draw with colours that nothing else uses and exchange them in the SVG.
PAGE = Theme(**{field.name: f"#0a0b{index:02x}" for index, field in enumerate(dataclasses.fields(Theme))})
_PAGE_VARIABLES = {getattr(PAGE, field.name): f"var(--{field.name})" for field in dataclasses.fields(Theme)}


def to_svg(figure: "Figure", name: str, description: str, tight: bool = False) -> str:
    """Writes a figure drawn with `PAGE` as an `<svg>` element for the page.

    Args:
        figure: drawn within `drawing(PAGE)`.
        name: unique on the page; prefixes the ids inside the SVG.
        description: what the picture shows, for those who do not see it.
        tight: cut off empty margins.
    """
    from html import escape

    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None}, transparent=True, bbox_inches="tight" if tight else None
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in _PAGE_VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    # Inline SVG needs no namespaces, and without them the page holds no web address at all.
    svg = re.sub(r'\s+xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    opening = f'<svg role="img" aria-label="{escape(description, quote=True)}" class="figure"'
    svg = re.sub(r"<svg", opening, svg, count=1)
    return re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2)


def png_data_uri(content: bytes) -> str:
    """PNG bytes as a data URI."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
