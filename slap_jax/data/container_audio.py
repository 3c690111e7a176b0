"""Sound in containers that libsndfile does not know, M4A and videos above all, decoded by PyAV if it is installed."""

import io
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from slap_jax.data.audio import AudioError, unreadable

# FFmpeg knows formats that name other files and addresses, such as playlists; of foreign files none of these is opened.
_FORMATS = "mov,matroska,aac,asf,avi,flv,mpegts,amr"


def container_blocks(
    source: str | io.BytesIO, name: str, refused: str
) -> tuple[int, int | None, Iterator[Float[np.ndarray, " n"]]]:
    """Opens the first audio track.

    Args:
        source: path, or the encoded bytes.
        name: what errors call it.
        refused: why libsndfile does not read it.

    Returns:
        Its rate in Hz, the number of samples that the container promises, if it does, and mono samples piece by piece.

    Raises:
        AudioError: PyAV is not installed, or cannot read it either, at once or on the way, or there is no audio track.
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

    def blocks() -> Iterator[np.ndarray]:
        to_float = av.AudioResampler(format="fltp")
        try:
            with container:
                for frame in itertools.chain(container.decode(stream), [None]):
                    for converted in to_float.resample(frame):
                        yield converted.to_ndarray().mean(axis=0)
        except (av.error.FFmpegError, ValueError) as error:  # the latter where channels change on the way
            reason = error.strerror if isinstance(error, av.error.FFmpegError) else error
            raise unreadable(name, f"{refused}; by PyAV: {reason}") from error

    try:
        container = av.open(source, "r", options={"format_whitelist": _FORMATS})
    except (av.error.FFmpegError, ValueError) as error:
        reason = error.strerror if isinstance(error, av.error.FFmpegError) else error
        raise unreadable(name, f"{refused}; by PyAV: {reason}") from error
    if not container.streams.audio:
        container.close()
        raise AudioError(f"{name} has no audio track; leave it out", "empty_audio")
    stream = container.streams.audio[0]
    promised = None
    if stream.duration is not None and stream.time_base is not None:
        promised = round(stream.duration * stream.time_base * stream.rate)
    return stream.rate, promised, blocks()
