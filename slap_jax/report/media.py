"""Sound and small pictures of sound as data URIs, so that the page needs no other file."""

import base64
import functools
import io

import numpy as np
from jaxtyping import Shaped
from ml_collections import ConfigDict

from slap_jax.batch import PADDING_SEGMENT
from slap_jax.config import samples_per_column
from slap_jax.report.theme import png_data_uri

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
