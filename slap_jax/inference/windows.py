"""Overlapping windows over a stream of samples, and one answer per moment from what overlapping windows say."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class WindowError(ValueError):
    """Windows that a recording cannot be cut into; the message says what to write."""


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
