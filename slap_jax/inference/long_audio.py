"""Recordings of any length as a stream of windows: decoded ahead by threads, never whole in memory.

Overlapping windows over a stream of samples, and one answer per moment from what overlapping windows say.

What a program says of the windows and of the columns of recordings, and when these are.

What a model says about the moments of a recording: answers with their times in seconds.
"""

import collections
import itertools
import logging
import math
import numbers
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from slap_jax.data.packing import clip_columns
from slap_jax.errors import UserError
from slap_jax.inference.audio_input import Audio, stream_item
from slap_jax.inference.embedder import AudioProgram, Embedder

DECODE_THREADS = max(2, min(8, os.cpu_count() or 1))
AHEAD = 2 * DECODE_THREADS  # recordings of which the first window is decoded before it is wanted

# Less than one step of 16 bits.
_SILENT_PEAK = 2.0**-15


class Cut(NamedTuple):
    """Where windows lie; see `overlapping_windows`.

    Attributes:
        length: samples of a window.
        hop: samples from the start of one window to that of the next.
        whole: up to so many samples a recording is one window, too.
    """

    length: int
    hop: int
    whole: int = 0


# A recording of any length is one window.
WHOLE = Cut(sys.maxsize, sys.maxsize)


def overlapping_cut(seconds: float, rate: int, per_column: int) -> Cut:
    """Recordings of up to `seconds` whole; longer ones in windows of whole columns that share a third with the next.

    Raises:
        WindowError: too short for that, or no length.
    """
    if not isinstance(seconds, numbers.Real) or not math.isfinite(seconds):
        raise WindowError(
            f"window_seconds is {seconds!r}; write a number of seconds, 1 or more, or None for no windows"
        )
    columns = int(seconds * rate) // per_column
    if columns < 3:
        raise WindowError(f"windows of {seconds} s are too short; write 1 or more")
    return Cut(columns * per_column, -(-columns * 2 // 3) * per_column, int(seconds * rate))


def even_cut(seconds: float, hop: float | None, rate: int, overlap: float = 0.0) -> Cut:
    """Windows of `seconds` every `hop`; without a hop, such that each shares `overlap` of its length with the next.

    Raises:
        WindowError: windows without length, or gaps between them.
    """
    numeric = all(isinstance(value, numbers.Real) for value in (seconds, 0.0 if hop is None else hop))
    step = (1 - overlap) * seconds if numeric and hop is None else hop
    if not numeric or step is None or not 0 < step <= seconds < math.inf or round(step * rate) < 1:
        raise WindowError(f"windows of {seconds} s every {step} s were asked for; expected 0 < hop <= seconds")
    return Cut(round(seconds * rate), round(step * rate))


class Span(NamedTuple):
    """Where a window lies.

    Attributes:
        recording: place of the recording in a list.
        start: first sample.
        length: samples.
    """

    recording: int
    start: int
    length: int


class Piece(NamedTuple):
    """A window of one of several recordings; all of a recording that is short enough.

    Attributes:
        span: where it lies.
        samples: mono.
    """

    span: Span
    samples: Float[np.ndarray, " n"]


def pieces(
    audio: Sequence[Audio],
    rate: int,
    cut: Cut,
    array_rate: int | None = None,
    one: bool = False,
) -> Iterator[Piece]:
    """Decodes recordings and cuts them into windows.

    Threads decode the first windows of the next `AHEAD` recordings; further windows of a long one follow when they are
    asked for.

    Args:
        audio: the recordings.
        rate: of the samples, in Hz.
        cut: where the windows lie.
        array_rate: sample rate of samples that come alone.
        one: whether messages need not tell the place in the list.

    Yields:
        The windows of the first recording, then those of the second, and so on.

    Raises:
        AudioError: when a recording that cannot be read is reached.
    """

    def start(place: int) -> Iterator[Window]:
        name = "" if one else f"clip {place}"
        blocks = stream_item(audio[place], rate, name, array_rate)
        windows = overlapping_windows(_with_silence_told(blocks, audio[place], name), *cut)
        first = next(windows)
        return itertools.chain([first], windows)

    places = iter(range(len(audio)))
    started: collections.deque[tuple[int, Future[Iterator[Window]]]] = collections.deque()
    threads = ThreadPoolExecutor(DECODE_THREADS)
    try:
        while True:
            for place in itertools.islice(places, AHEAD - len(started)):
                started.append((place, threads.submit(start, place)))
            if not started:
                return
            place, future = started.popleft()
            for window in future.result():
                yield Piece(Span(place, window.start, len(window.samples)), window.samples)
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def _with_silence_told(
    blocks: Iterator[Float[np.ndarray, " n"]], item: Audio, name: str
) -> Iterator[Float[np.ndarray, " n"]]:
    """Passes blocks on and, at the end, warns if there was nothing to hear in them."""
    silent = True
    for block in blocks:
        silent = silent and float(np.abs(block).max(initial=0.0)) < _SILENT_PEAK
        yield block
    if silent:
        told = os.fspath(item) if isinstance(item, (str, os.PathLike)) else name or "clip"
        logging.warning("%s is silent: the model answers, but only about silence", told)


class WindowError(UserError, ValueError):
    """Windows that a recording cannot be cut into; the message says what to write."""


class Window(NamedTuple):
    """A part of a recording.

    Attributes:
        start: its first sample in the recording.
        samples: mono.
    """

    start: int
    samples: Float[np.ndarray, " n"]


def overlapping_windows(
    blocks: Iterable[Float[np.ndarray, " n"]], length: int, hop: int, whole: int = 0
) -> Iterator[Window]:
    """Cuts a stream into windows; at most one window and one block of samples are held.

    Args:
        blocks: the samples of a recording in order, in pieces of any size.
        length: samples of a window.
        hop: samples from the start of one window to that of the next, at most `length`.
        whole: up to so many samples a recording is one window, too.

    Yields:
        Windows that start at 0, hop, 2 hop, ... The last one ends with the recording and is shorter than the others
        but longer than their overlap, length - hop. A recording of up to `length` samples is one window.
    """
    start, limit = 0, max(length, whole)
    held: list[np.ndarray] = []
    size = 0
    for block in blocks:
        held.append(block)
        size += block.size
        if size > limit:
            samples, limit = np.concatenate(held), length
            while samples.size > length:
                yield Window(start, samples[:length])
                start, samples = start + hop, samples[hop:]
            held, size = [samples], samples.size
    yield Window(start, np.concatenate(held))


def mean_of_windows(parts: Sequence[tuple[Span, Float[np.ndarray, " E"]]]) -> Float[np.ndarray, " E"]:
    """Returns one unit vector for a recording: its windows' mean, each weighted by its duration.

    Args:
        parts: where its windows lie, in any order, with their unit vectors. One alone is returned as it is.
    """
    if len(parts) == 1:
        return parts[0][1]
    # Sums in another order would differ in the last bits.
    ordered = sorted(parts, key=lambda part: part[0].start)
    total = np.sum([span.length * vector.astype(np.float64) for span, vector in ordered], axis=0)
    return (total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32)


def join_columns(parts: Iterable[tuple[int, Float[np.ndarray, "n X"]]]) -> Float[np.ndarray, "c X"]:
    """Takes each column of a recording from the window in which it is most central.

    Args:
        parts: (first column, value of each column) of each window in order; a window overlaps only its neighbours.

    Returns:
        The value of each column of the recording.
    """
    kept: list[np.ndarray] = []
    taken, previous_start, previous = 0, 0, None
    for start, values in parts:
        if previous is not None:
            middle = (start + previous_start + len(previous)) // 2  # of the overlap
            kept.append(previous[taken - previous_start : middle - previous_start])
            taken = middle
        previous_start, previous = start, values
    assert previous is not None, "a recording has a window"
    return np.concatenate([*kept, previous[taken - previous_start :]])


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


class Windows(NamedTuple):
    """Overlapping windows of a recording.

    Attributes:
        start: of each window, in seconds.
        end: of each window; that of the last is the recording's.
        embeddings: fp32 unit vectors.
    """

    start: Float[np.ndarray, " w"]
    end: Float[np.ndarray, " w"]
    embeddings: Float[np.ndarray, "w E"]


class Frames(NamedTuple):
    """Dense features of a recording, one for each column of patches (160 ms).

    Attributes:
        start: of each column, in seconds.
        end: of each column; that of the last is the recording's.
        features: fp32, the mean over the patches (bands of frequency) of a column.
    """

    start: Float[np.ndarray, " c"]
    end: Float[np.ndarray, " c"]
    features: Float[np.ndarray, "c D"]


class Scores(NamedTuple):
    """Similarity of each moment of a recording with texts.

    Attributes:
        start: of each column, in seconds.
        end: of each column; that of the last is the recording's.
        scores: cosine, -1 to 1, of the column's embedding with each text.
    """

    start: Float[np.ndarray, " c"]
    end: Float[np.ndarray, " c"]
    scores: Float[np.ndarray, "c m"]


class Captions(NamedTuple):
    """Captions of the windows of a recording.

    Attributes:
        start: of each window, in seconds.
        end: of each window; that of the last is the recording's.
        texts: a caption of each window.
    """

    start: Float[np.ndarray, " w"]
    end: Float[np.ndarray, " w"]
    texts: list[str]
