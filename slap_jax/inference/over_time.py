"""What a program says of the windows and of the columns of recordings, and when these are."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from slap_jax.data.packing import clip_columns
from slap_jax.inference.audio_input import Audio
from slap_jax.inference.embedder import AudioProgram, Embedder
from slap_jax.inference.recordings import Cut, pieces
from slap_jax.inference.windows import Span, join_columns


def stream_windows(
    embedder: Embedder,
    program: AudioProgram,
    audio: Sequence[Audio],
    cut: Cut,
    array_rate: int | None = None,
    one: bool = False,
) -> Iterator[tuple[Span, np.ndarray]]:
    """Runs a program on windows of recordings; of the samples, few are in memory at a time.

    Args:
        embedder: that the program belongs to.
        program: see `Embedder.audio_program`.
        audio: the recordings.
        cut: where the windows lie.
        array_rate: sample rate of samples that come alone, in Hz.
        one: whether errors need not tell the place in the list.

    Yields:
        Where each window lies, and its row of the result; in order on CPU, elsewhere not always.

    Raises:
        AudioError: when a recording that cannot be read is reached.
    """
    found = pieces(audio, embedder.config.audio.sample_rate, cut, array_rate, one)
    for piece, row in embedder.stream_audio(program, found, lambda piece: piece.samples):
        yield piece.span, row


def columns_over_time(
    embedder: Embedder,
    program: AudioProgram,
    clip: Audio,
    cut: Cut,
    array_rate: int | None,
    of_columns: Callable[[Float[np.ndarray, "n D"]], Float[np.ndarray, "n X"]],
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"], Float[np.ndarray, "c X"]]:
    """Runs a program that answers for each column on one recording.

    Args:
        embedder: that the program belongs to.
        program: see `Embedder.audio_program`.
        clip: the recording.
        cut: windows of whole columns.
        array_rate: sample rate of samples that come alone, in Hz.
        of_columns: what is kept of the answers of a window.

    Returns:
        Starts and ends of the columns in seconds, and what `of_columns` returned, each column from the window in which
        it is most central.
    """
    rate, per_column = embedder.config.audio.sample_rate, embedder.per_column
    parts, samples = [], 0
    for span, answers in stream_windows(embedder, program, [clip], cut, array_rate, one=True):
        own = answers[: clip_columns(span.length, per_column)]
        parts.append((span.start // per_column, of_columns(own)))
        samples = max(samples, span.start + span.length)
    values = join_columns(sorted(parts, key=lambda part: part[0]))
    start = np.arange(len(values)) * (per_column / rate)
    return start, np.minimum(start + per_column / rate, samples / rate), values


def window_times(spans: Sequence[Span], rate: int) -> tuple[Float[np.ndarray, " w"], Float[np.ndarray, " w"]]:
    """Returns starts and ends of windows in seconds."""
    start = np.array([span.start for span in spans]) / rate
    return start, start + np.array([span.length for span in spans]) / rate
