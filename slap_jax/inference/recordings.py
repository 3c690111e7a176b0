"""Recordings of any length as a stream of windows: decoded ahead by threads, never whole in memory."""

import collections
import itertools
import logging
import math
import numbers
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from slap_jax.inference.audio_input import Audio, stream_item
from slap_jax.inference.windows import Span, Window, WindowError, overlapping_windows

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
