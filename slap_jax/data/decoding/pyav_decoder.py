"""Decoding by PyAV: containers such as M4A and video, and what libsndfile does not know."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from slap_jax.data.decoding.errors import AudioError, check_channels, check_rate, mention, reason_of, unreadable

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

# FFmpeg supports formats that refer to other files and addresses, such as playlists. Only formats without such
# references are opened, because the files are untrusted.
_FORMATS = (
    "mov,matroska,asf,avi,flv,mpegts,mpeg,aac,amr,wav,w64,aiff,caf,au,mp3,flac,ogg,wv,tta,ac3,eac3,dts,voc,nistsphere"
)
# Of these, the ones that are a sequence of frames without a length: FFmpeg estimates one.
_WITHOUT_LENGTH = frozenset(("aac", "amr", "mp3", "ac3", "eac3", "dts", "mpegts", "mpeg"))
_COMPLETE = 0.9
_ROUNDING = 1e-3  # of durations, in seconds; a packet is longer


def container_blocks(
    source: str | bytes, name: str, refused: str
) -> Iterator[tuple[int, Float[np.ndarray, "n channels"]]]:
    """Decodes the first audio track.

    Args:
        source: path, or the encoded bytes.
        name: name for error messages.
        refused: why libsndfile cannot read it.

    Yields:
        The sample rate in Hz, and samples [n, channels].

    Raises:
        AudioError: PyAV cannot read it either, it is damaged or truncated, or it has no audio track.
    """
    import av  # takes longer to import than libsndfile needs for most files
    import av.error

    try:
        container = _open(source)
    except Exception as error:
        raise unreadable(name, f"{refused}; by PyAV: {reason_of(error)}") from error
    with container:
        if not container.streams.audio:
            raise AudioError(f"{name} has no audio track; leave it out", "empty_audio")
        stream = container.streams.audio[0]
        seconds, packets, fault = 0.0, 0, None
        resampler, kind = av.AudioResampler(format="flt"), None
        try:
            for packet in container.demux(stream):
                packets += packet.size > 0
                try:
                    frames = packet.decode()
                except (av.error.InvalidDataError, av.error.EOFError) as error:
                    if fault is not None:
                        raise
                    fault = error  # it may be the last packet, cut off
                    continue
                if frames and fault is not None:
                    raise fault
                for frame in frames:
                    check_rate(frame.sample_rate, name)
                    check_channels(frame.layout.nb_channels, name)
                    if kind != (kind := (frame.format.name, frame.layout.name, frame.sample_rate)):
                        resampler = av.AudioResampler(format="flt")  # only converts the samples to floats
                    for converted in resampler.resample(frame):
                        # Interleaved: PyAV crashes with more than eight channels of planar samples.
                        block = converted.to_ndarray().reshape(-1, frame.layout.nb_channels)
                        if len(block):
                            seconds += len(block) / frame.sample_rate
                            yield frame.sample_rate, block
        except AudioError:
            raise
        except Exception as error:
            raise unreadable(name, f"{refused}; by PyAV: {reason_of(error)}") from error
        if seconds == 0 and not container.format.name.startswith(("mov", "matroska")):
            # FFmpeg takes any bytes for a format that the suffix of the file names.
            raise unreadable(name, f"{refused}; by PyAV: no frame of {container.format.name}")
        stated = _stated_seconds(container, stream)
        has_index = container.format.name.startswith("mov")  # which states the number of packets
        is_short = (has_index and packets < stream.frames) or fault is not None
        if (is_short and seconds < stated - _ROUNDING) or (not has_index and seconds < _COMPLETE * stated):
            raise AudioError(
                f"{name} is truncated: its header states {stated:.2f} s, and {seconds:.2f} s could be read; copy it "
                "again, or leave it out",
                "truncated_audio",
            )
        if fault is not None:
            mention(f"{name} ends inside a frame, after {seconds:.2f} s; these are used")
        elif seconds < _COMPLETE * stated or (0 < stated < _COMPLETE * seconds):
            mention(f"{name} has a wrong header: it states {stated:.2f} s, and {seconds:.2f} s are there; all are read")


def _open(source: str | bytes) -> "InputContainer":
    import io

    import av

    options = {"format_whitelist": _FORMATS}
    if isinstance(source, bytes):
        return av.open(io.BytesIO(source), "r", options=options)
    return av.open(f"file:{source}", "r", options={**options, "protocol_whitelist": "file"})


def _stated_seconds(container: "InputContainer", stream: "AudioStream") -> float:
    """Returns the duration that the container states, or 0."""
    if container.format.name in _WITHOUT_LENGTH or stream.duration is None or stream.time_base is None:
        return 0.0
    return float(stream.duration * stream.time_base)
