"""Sound in containers that libsndfile does not know, M4A and videos above all, decoded by PyAV if it is installed."""

import io

import numpy as np
from jaxtyping import Float

from slap_jax.data.audio import AudioError, unreadable

# FFmpeg knows formats that name other files and addresses, such as playlists; of foreign files none of these is opened.
_FORMATS = "mov,matroska,aac,asf,avi,flv,mpegts,amr"


def decode_container(
    source: str | io.BytesIO, name: str, refused: str
) -> tuple[Float[np.ndarray, " n"], int, int | None]:
    """Decodes the first audio track.

    Args:
        source: path, or the encoded bytes.
        name: what errors call it.
        refused: why libsndfile does not read it.

    Returns:
        Mono samples [n], their rate in Hz, and the number of samples that the container promises, if it does.

    Raises:
        AudioError: PyAV is not installed, or cannot read it either, or there is no audio track.
    """
    try:
        import av
        import av.error
    except ImportError as error:
        advice = 'convert it, leave it out, or if it is M4A, AAC or a video, `pip install "slap-jax[video]"`'
        raise unreadable(name, refused, advice) from error
    if isinstance(source, io.BytesIO):
        source.seek(0)
    else:
        source = f"file:{source}"
    try:
        with av.open(source, "r", options={"format_whitelist": _FORMATS}) as container:
            if not container.streams.audio:
                raise AudioError(f"{name} has no audio track; leave it out", "empty_audio")
            stream = container.streams.audio[0]
            promised = None
            if stream.duration is not None and stream.time_base is not None:
                promised = round(stream.duration * stream.time_base * stream.rate)
            to_float = av.AudioResampler(format="fltp")
            frames = [
                converted.to_ndarray().mean(axis=0)
                for frame in (*container.decode(stream), None)
                for converted in to_float.resample(frame)
            ]
            samples = np.concatenate(frames) if frames else np.zeros(0, np.float32)
            return samples, stream.rate, promised
    except AudioError:
        raise
    except (av.error.FFmpegError, ValueError) as error:  # the latter where channels change on the way
        reason = error.strerror if isinstance(error, av.error.FFmpegError) else error
        raise unreadable(name, f"{refused}; by PyAV: {reason}") from error
